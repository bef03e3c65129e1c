"""What is written behind is in the file after a flush, in the order in which it was written."""

import errno
import mmap
import os
import resource
import runpy
import signal
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tagalong import write_behind
from tagalong.wire.integrity import page_digests
from tagalong.write_behind import BUFFER_BYTES, WriteBehind

PAGE = 4096
FOLDERS = {"disk": Path(__file__).parent, "memory": Path("/dev/shm")}


@pytest.fixture(params=list(FOLDERS))
def fd(request: pytest.FixtureRequest) -> Iterator[int]:
    with tempfile.TemporaryFile(dir=FOLDERS[request.param]) as file:
        yield file.fileno()


def noise(size: int, seed: int = 1) -> NDArray[np.uint8]:
    return np.frombuffer(np.random.default_rng(seed).bytes(size), np.uint8).copy()


def digest(pages: NDArray[np.uint8], copy: NDArray[np.uint8] | None = None) -> NDArray[np.uint64]:
    assert copy is not None
    copy[:] = pages
    return page_digests((copy.data,), PAGE)


def content_of(fd: int) -> bytes:
    return os.pread(fd, os.fstat(fd).st_size + 1, 0)


def test_pieces_of_any_size_come_one_after_the_other(fd: int) -> None:
    whole, at = noise(3 * BUFFER_BYTES + 12345), 0
    with closing(WriteBehind(fd)) as behind:
        for size in (5, 4091, 1 << 20, 3 * PAGE, 2 * BUFFER_BYTES + 1, whole.size):
            behind.write(at, whole[at : at + size])
            at = min(at + size, whole.size)
        behind.flush()

        assert content_of(fd) == whole.tobytes()


def test_memory_may_change_after_it_was_written(fd: int) -> None:
    memory = noise(BUFFER_BYTES + PAGE)
    expected = memory.tobytes()
    with closing(WriteBehind(fd)) as behind:
        behind.write(0, memory)
        memory[:] = 0
        behind.flush()

    assert content_of(fd) == expected


def test_what_is_written_again_replaces_what_was_written_before(fd: int) -> None:
    first, second = noise(2 * BUFFER_BYTES), noise(BUFFER_BYTES, seed=2)
    expected = first.copy()
    expected[PAGE : PAGE + second.size] = second
    with closing(WriteBehind(fd)) as behind:
        for _ in range(8):
            behind.write_in_place(0, first)
            behind.write(PAGE, second)
        behind.flush()

    assert content_of(fd) == expected.tobytes()


def test_settled_bytes_can_be_read(fd: int) -> None:
    content = noise(3 * PAGE)
    with closing(WriteBehind(fd)) as behind:
        behind.write(0, content)
        behind.settle(PAGE, 2 * PAGE)

        assert os.pread(fd, PAGE, PAGE) == content[PAGE : 2 * PAGE].tobytes()


@pytest.mark.parametrize("at", [0, 1, 4095, BUFFER_BYTES - 7])
def test_digests_are_of_the_pages_that_are_written(fd: int, at: int) -> None:
    pages = noise(BUFFER_BYTES + 5 * PAGE)
    with closing(WriteBehind(fd)) as behind:
        behind.write(0, noise(at))
        digests = behind.write_pages(at, pages, PAGE, digest)
        behind.flush()

    assert np.array_equal(np.concatenate(digests), page_digests((pages.data,), PAGE))
    assert content_of(fd)[at:] == pages.tobytes()


def test_full_disk_is_told_by_a_later_call_and_by_each_after_it(fd: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with closing(WriteBehind(fd)) as behind:
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (PAGE, hard))
            behind.write(0, noise(BUFFER_BYTES))
            for _ in range(2):
                with pytest.raises(OSError, match="too large") as caught:
                    behind.flush()

                assert caught.value.errno == errno.EFBIG
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            signal.signal(signal.SIGXFSZ, previous)


def test_short_writes_and_a_file_system_without_direct_ones_lose_nothing(
    fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = noise(2 * BUFFER_BYTES)
    pwrite, refused = os.pwrite, []

    def write_little(target: int, data: memoryview, at: int) -> int:
        if target != fd:
            refused.append(at)
            raise OSError(errno.EINVAL, "no direct writes here")
        return pwrite(target, data[:100_001], at)

    monkeypatch.setattr(os, "pwrite", write_little)
    with closing(WriteBehind(fd)) as behind:
        behind.write(0, whole)
        behind.flush()

    assert content_of(fd) == whole.tobytes()


def test_no_page_of_the_cache_is_also_written_past_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel could keep what was there before (it warns of possible data corruption)."""
    monkeypatch.setattr(mmap, "PAGESIZE", 0x1_0000)

    module = runpy.run_path(write_behind.__file__)

    assert module["_BLOCK_BYTES"] == 0x1_0000


def test_closing_without_a_flush_leaves_no_thread_and_no_descriptor(fd: int) -> None:
    behind = WriteBehind(fd)
    behind.write(0, noise(2 * BUFFER_BYTES))

    behind.close()
    behind.close()

    assert behind._pool is None
    assert behind._direct is None
