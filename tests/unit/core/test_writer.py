"""The writer: nothing under the final name before the commit, zero stays a hole."""

import errno
import os
import re
import resource
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tagalong import files
from tagalong.core import CoreSegment, CoreWriter, open_core
from tagalong.core.sparse import SparseExtent
from tagalong.core.thread_notes import encode_notes
from tagalong.errors import HostError, RunStateError, UsageError
from tagalong.memory import Gpa
from tagalong.write_behind import WriteBehind
from tests.support.cores import (
    PAGE,
    PAGE_TAGS,
    RAM,
    notes,
    random_planes,
    segments_of,
    used_parts,
    write_core,
)

SIZE = 64 * PAGE
DATA, TAGS = random_planes(SIZE)
NOTES = notes(SIZE)
SEGMENTS = segments_of(NOTES.description)
ZERO = np.zeros(SIZE, np.uint8)


def writer_to(path: Path, **rest: bool) -> CoreWriter:
    return CoreWriter(path, SEGMENTS, page_size_bytes=PAGE, **rest)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "vm.core"


@pytest.fixture(params=["nameless", "hidden"])
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Write to a file without a name, and as on a file system that has none."""
    if request.param == "hidden":
        monkeypatch.setattr(files, "_DESCRIPTORS", Path("/nonexistent"))
    return str(request.param)


@pytest.mark.usefixtures("either_way")
def test_commit_gives_the_name_and_all_of_it_can_be_read(path: Path) -> None:
    report = write_core(path, NOTES, [DATA], [TAGS])

    assert report.path == path
    assert report.size_bytes == path.stat().st_size
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["vm.core"]
    with open_core(path) as core:
        assert np.array_equal(core.data(RAM, SIZE), DATA)
        assert np.array_equal(core.tags(RAM, SIZE), TAGS)
        assert core.machine == NOTES


def test_writer_before_commit_shows_nothing_at_all(path: Path) -> None:
    with writer_to(path) as writer:
        writer.write_data(0, 0, DATA)

        assert list(path.parent.iterdir()) == []


@pytest.mark.usefixtures("either_way")
def test_writer_left_without_commit_leaves_nothing(path: Path) -> None:
    with writer_to(path) as writer:
        writer.write_data(0, 0, DATA)

    assert list(path.parent.iterdir()) == []


@pytest.mark.usefixtures("either_way")
def test_writer_left_by_an_exception_leaves_what_was_there(path: Path) -> None:
    path.write_text("before")

    def fail() -> None:
        with writer_to(path) as writer:
            writer.write_data(0, 0, DATA)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()

    assert path.read_text() == "before"
    assert len(list(path.parent.iterdir())) == 1


@pytest.mark.usefixtures("either_way")
def test_commit_replaces_an_older_file(path: Path) -> None:
    path.write_text("before")

    write_core(path, NOTES, [DATA])

    assert path.read_bytes()[:4] == b"\x7fELF"
    assert len(list(path.parent.iterdir())) == 1


def test_writer_without_overwrite_refuses_an_existing_file(path: Path) -> None:
    path.write_text("before")

    with pytest.raises(HostError, match=r"cannot create .*vm.core: .*File exists"):
        writer_to(path, overwrite=False)

    assert path.read_text() == "before"


@pytest.mark.usefixtures("either_way")
def test_commit_without_overwrite_spares_a_file_that_came_meanwhile(path: Path) -> None:
    with writer_to(path, overwrite=False) as writer:
        path.write_text("meanwhile")

        with pytest.raises(HostError, match=r"cannot finish .*File exists"):
            writer.commit(NOTES)

    assert path.read_text() == "meanwhile"
    assert len(list(path.parent.iterdir())) == 1


@pytest.mark.usefixtures("either_way")
def test_commit_without_overwrite_gives_the_name(path: Path) -> None:
    with writer_to(path, overwrite=False) as writer:
        writer.commit(NOTES)

    assert [entry.name for entry in path.parent.iterdir()] == ["vm.core"]


def test_writer_after_commit_refuses_more(path: Path) -> None:
    with writer_to(path) as writer:
        writer.commit(NOTES)

        for action in (
            lambda: writer.write_data(0, 0, DATA),
            lambda: writer.write_tags(0, 0, TAGS),
            lambda: writer.commit(NOTES),
        ):
            with pytest.raises(RunStateError, match="this core is finished"):
                action()


@pytest.mark.parametrize(
    ("segment", "offset", "size", "message"),
    [
        (1, 0, PAGE, "this core has no segment 1"),
        (-1, 0, PAGE, "this core has no segment -1"),
        (0, 1, PAGE, r"\[0x1, 0x1001\) are not whole pages of segment 0, which has 0x40000 bytes"),
        (0, 0, PAGE - 1, r"\[0x0, 0xfff\) are not whole pages"),
        (0, SIZE, PAGE, r"\[0x40000, 0x41000\) are not whole pages"),
        (0, -PAGE, PAGE, r"\[-0x1000, 0x0\) are not whole pages"),
    ],
)
def test_write_data_outside_of_the_segments_is_refused(
    path: Path, segment: int, offset: int, size: int, message: str
) -> None:
    with writer_to(path) as writer, pytest.raises(UsageError, match=message):
        writer.write_data(segment, offset, np.ones(size, np.uint8))


def test_write_tags_of_a_segment_without_tags_is_refused(path: Path) -> None:
    segment = CoreSegment(RAM, Gpa(RAM), PAGE, has_tags=False)

    with (
        CoreWriter(path, [segment], page_size_bytes=PAGE) as writer,
        pytest.raises(UsageError, match="segment 0 of this core has no tags"),
    ):
        writer.write_tags(0, 0, TAGS[:PAGE_TAGS])


def test_commit_of_notes_that_do_not_fit_is_refused(path: Path) -> None:
    two = notes(SIZE, vcpus=2)
    short = type(two)(two.description, NOTES.state)

    with (
        writer_to(path) as writer,
        pytest.raises(UsageError, match="a state of 0x1 vCPUs for a machine of 0x2"),
    ):
        writer.commit(short)

    assert list(path.parent.iterdir()) == []


def test_writer_in_a_missing_folder_says_so(path: Path) -> None:
    with pytest.raises(HostError, match=r"cannot create .*No such file or directory"):
        writer_to(path.parent / "absent" / "vm.core")


def test_writer_to_a_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="it is a directory; give a file name"):
        writer_to(tmp_path)


def test_writer_of_zero_pages_makes_holes(path: Path) -> None:
    mixed = DATA.copy()
    mixed[PAGE : 3 * PAGE] = 0

    write_core(path, NOTES, [mixed], [np.zeros_like(TAGS)])

    data_at = PAGE
    notes_at = path.stat().st_size // PAGE * PAGE
    first, second, third = used_parts(path)
    assert (first, second) == ((0, data_at + PAGE), (data_at + 3 * PAGE, data_at + SIZE))
    assert third[0] == notes_at


def test_writer_of_nothing_writes_headers_and_notes_only(path: Path) -> None:
    report = write_core(path, notes(1 << 40), [])

    assert report.disk_bytes <= 4 * PAGE
    assert report.size_bytes > 1 << 40


@pytest.mark.parametrize("punches", [True, False])
def test_write_again_as_zero_gives_the_pages_back(
    path: Path, punches: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not punches:

        def refuse(*_: int) -> int:
            raise OSError(errno.EOPNOTSUPP, "not supported")

        monkeypatch.setattr("tagalong.core.sparse._punch", refuse)
    with writer_to(path) as writer:
        writer.write_data(0, 0, DATA)
        writer.write_tags(0, 0, TAGS)
        writer.write_data(0, PAGE, ZERO[: 62 * PAGE])
        writer.write_tags(0, 0, ZERO[: SIZE // 32])
        writer.commit(NOTES)

    with open_core(path) as core:
        assert np.array_equal(core.data(RAM, PAGE), DATA[:PAGE])
        assert not core.data(RAM + PAGE, 62 * PAGE).any()
        assert np.array_equal(core.data(RAM + 63 * PAGE, PAGE), DATA[63 * PAGE :])
        assert not core.tags(RAM, SIZE).any()
    if punches:
        assert used_parts(path)[:2] == [(0, 2 * PAGE), (64 * PAGE, 65 * PAGE)]


def test_tags_made_zero_page_by_page_become_a_hole(path: Path) -> None:
    with writer_to(path) as writer:
        writer.write_tags(0, 0, TAGS)
        for page in range(64):
            writer.write_tags(0, page * PAGE, ZERO[:PAGE_TAGS])
        writer.commit(NOTES)

    notes_at = path.stat().st_size // PAGE * PAGE
    assert [start for start, _ in used_parts(path)] == [0, notes_at]


def test_tags_of_single_pages_in_any_order_arrive(path: Path) -> None:
    order = np.random.default_rng(2).permutation(64)
    with writer_to(path) as writer:
        for page in order.tolist():
            packed = TAGS[page * PAGE_TAGS : (page + 1) * PAGE_TAGS]
            writer.write_tags(0, page * PAGE, packed)
        writer.commit(NOTES)

    with open_core(path) as core:
        assert np.array_equal(core.tags(RAM, SIZE), TAGS)


@pytest.fixture(params=["another file system", "the same file system"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[int]:
    """A sparse file: pages 0 to 3 and 40 to 63 of DATA, page 1 zero but no hole."""
    if request.param == "another file system":
        fd = os.memfd_create("source")
    else:
        fd = os.open(tmp_path / "source", os.O_RDWR | os.O_CREAT)
        os.unlink(tmp_path / "source")
    os.ftruncate(fd, SIZE)
    os.pwrite(fd, DATA[: 4 * PAGE].tobytes(), 0)
    os.pwrite(fd, bytes(PAGE), PAGE)
    os.pwrite(fd, DATA[40 * PAGE :].tobytes(), 40 * PAGE)
    yield fd
    os.close(fd)


def test_copy_data_copies_and_keeps_holes(path: Path, source: int) -> None:
    with writer_to(path) as writer:
        writer.write_data(0, 0, DATA)
        writer.copy_data(0, 0, source, 0, SIZE)
        writer.commit(NOTES)

    expected = DATA.copy()
    expected[PAGE : 2 * PAGE] = 0
    expected[4 * PAGE : 40 * PAGE] = 0
    with open_core(path) as core:
        assert np.array_equal(core.data(RAM, SIZE), expected)
    assert (41 * PAGE, 65 * PAGE) in used_parts(path)


def test_copy_data_within_a_file_system_is_the_kernels_work(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied: list[int] = []
    real = os.copy_file_range

    def count(*arguments: int) -> int:
        copied.append(real(*arguments))
        return copied[-1]

    monkeypatch.setattr(os, "copy_file_range", count)
    (tmp_path / "source").write_bytes(DATA.tobytes())

    with writer_to(path) as writer, (tmp_path / "source").open("rb") as file:
        writer.copy_data(0, 0, file.fileno(), 0, SIZE)
        writer.commit(NOTES)

    assert sum(copied) == SIZE
    with open_core(path) as core:
        assert np.array_equal(core.data(RAM, SIZE), DATA)


@pytest.mark.usefixtures("either_way")
def test_commit_brings_the_file_to_the_disk_before_it_has_a_name(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[bool, bool]] = []
    real = os.fsync

    def look(fd: int) -> None:
        real(fd)
        seen.append((stat.S_ISDIR(os.fstat(fd).st_mode), path.exists()))

    monkeypatch.setattr(os, "fsync", look)

    write_core(path, NOTES, [DATA])

    assert seen == [(False, False), (True, True)]


def test_copy_data_takes_a_part_to_another_place(path: Path, source: int) -> None:
    with writer_to(path) as writer:
        writer.copy_data(0, 10 * PAGE, source, 2 * PAGE, 40 * PAGE)
        writer.commit(NOTES)

    with open_core(path) as core:
        assert np.array_equal(core.data(RAM + 10 * PAGE, PAGE), DATA[2 * PAGE : 3 * PAGE])
        assert np.array_equal(core.data(RAM + 49 * PAGE, PAGE), DATA[41 * PAGE : 42 * PAGE])
        assert not core.data(RAM + 12 * PAGE, 36 * PAGE).any()
        assert not core.data(RAM, 10 * PAGE).any()


def test_copy_data_from_a_closed_descriptor_is_a_host_error(path: Path) -> None:
    with writer_to(path) as writer:
        fd = os.memfd_create("source")
        os.close(fd)

        with pytest.raises(HostError, match=r"fstat of the source failed: .*Bad file"):
            writer.copy_data(0, 0, fd, 0, SIZE)


def test_copy_data_from_a_source_that_ends_too_early_is_a_host_error(path: Path) -> None:
    with writer_to(path) as writer:
        fd = os.memfd_create("source")
        os.write(fd, DATA[:PAGE].tobytes())

        with pytest.raises(HostError, match="source ends at 0x1000, 0x40000 bytes of it were"):
            writer.copy_data(0, 0, fd, 0, SIZE)
        os.close(fd)


def test_write_on_a_full_disk_leaves_nothing_and_names_the_file(path: Path) -> None:
    path.write_text("before")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10 * PAGE, hard))
        with writer_to(path) as writer:
            writer.write_data(0, 0, DATA)
            # The last moment at which what was written before can fail.
            with pytest.raises(
                HostError, match=f"^cannot write {re.escape(str(path))}: File too large$"
            ):
                writer.commit(NOTES)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, previous)

    assert path.read_text() == "before"
    assert len(list(path.parent.iterdir())) == 1


def test_extent_on_a_full_disk_names_the_file_and_what_helps() -> None:
    fd = os.open("/dev/full", os.O_WRONLY)
    try:
        extent = SparseExtent(fd, Path("/srv/vm.core"), 0, PAGE, WriteBehind(fd))
        with pytest.raises(HostError) as caught:
            extent.write(0, np.ones(PAGE, np.uint8))
    finally:
        os.close(fd)

    assert str(caught.value) == (
        "cannot write /srv/vm.core: No space left on device; make room on its disk, or give a "
        "file on another"
    )


def test_commit_on_a_full_disk_leaves_nothing(path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with writer_to(path) as writer:
            writer.write_data(0, 0, DATA)
            resource.setrlimit(resource.RLIMIT_FSIZE, (SIZE, hard))
            with pytest.raises(HostError, match=r"cannot write .*File too large"):
                writer.commit(NOTES)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert list(path.parent.iterdir()) == []


def test_writer_killed_leaves_what_was_there_and_nothing_else(path: Path) -> None:
    path.write_text("before")
    program = (
        "import os, signal, sys, numpy as np\n"
        "from pathlib import Path\n"
        "from tests.support.cores import *\n"
        "with CoreWriter(Path(sys.argv[1]), segments_of(notes().description),\n"
        "                page_size_bytes=PAGE) as writer:\n"
        "    writer.write_data(0, 0, np.ones(PAGE, np.uint8))\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )

    done = subprocess.run([sys.executable, "-c", program, str(path)], check=False)

    assert done.returncode == -signal.SIGKILL
    assert path.read_text() == "before"
    assert len(list(path.parent.iterdir())) == 1


def test_many_segments_are_counted_in_section_header_0(path: Path) -> None:
    count = 0x8010
    many = [
        CoreSegment(0x1_0000_0000 + 2 * number * PAGE, Gpa(RAM), PAGE, has_tags=True)
        for number in range(count)
    ]

    with CoreWriter(path, many, page_size_bytes=PAGE) as writer:
        writer.write_tags(count - 1, 0, TAGS[:PAGE_TAGS])
        writer.commit(NOTES)

    with open_core(path) as core:
        assert (len(core.loads), len(core.tag_segments)) == (count, count)
        last = many[-1].address
        assert np.array_equal(core.tags(last, PAGE), TAGS[:PAGE_TAGS])


def test_encode_notes_has_the_size_that_the_headers_say(path: Path) -> None:
    write_core(path, NOTES, [])

    with open_core(path) as core:
        assert core.headers[0].file_bytes == len(encode_notes(NOTES))
