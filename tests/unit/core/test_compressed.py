"""The compressed form: there and back, by others' zstd too, hostile seek tables."""

import io
import resource
import struct
from pathlib import Path

import numpy as np
import pytest
import zstandard
from numpy.typing import NDArray

from tagalong.core import Core, compressed, open_core, pack, packing, unpack
from tagalong.core.compressed import frame_checksum
from tagalong.core.info import describe
from tagalong.core.source import FileSource
from tagalong.errors import HostError, MalformedCoreError, UsageError
from tests.support.cores import PAGE, RAM, notes, random_planes, used_parts, write_core

MIB = 1 << 20
SIZE = 40 * MIB


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sparse core of 40 MiB: random from 1 to 4 MiB on, and its last page."""
    path = tmp_path_factory.mktemp("compressed") / "vm.core"
    data = np.zeros(SIZE, np.uint8)
    tags = np.zeros(SIZE // 32, np.uint8)
    data[MIB : 4 * MIB], tags[MIB // 32 : 4 * MIB // 32] = random_planes(3 * MIB)
    data[-PAGE:] = 7
    write_core(path, notes(SIZE), [data], [tags])
    return path


@pytest.fixture(scope="module")
def packed(plain: Path) -> Path:
    path = plain.with_suffix(".zst")
    pack(plain, path)
    return path


def test_pack_then_unpack_gives_the_same_file_with_the_same_holes(
    plain: Path, packed: Path, tmp_path: Path
) -> None:
    back = tmp_path / "back.core"

    report = unpack(packed, back)

    assert back.read_bytes() == plain.read_bytes()
    assert used_parts(back) == used_parts(plain)
    assert report.size_bytes == plain.stat().st_size
    assert packed.stat().st_size < 4 * MIB


def test_compressed_core_is_undone_by_any_zstd(plain: Path, packed: Path) -> None:
    reader = zstandard.ZstdDecompressor().stream_reader(
        io.BytesIO(packed.read_bytes()), read_across_frames=True
    )

    assert reader.read() == plain.read_bytes()


def test_compressed_core_reads_as_the_plain_one(plain: Path, packed: Path) -> None:
    with open_core(plain) as expected, open_core(packed) as core:
        for address, length in (
            (RAM, SIZE),
            (RAM + MIB - 5000, 10000),
            (RAM + SIZE - 1, 1),
            (RAM + 7, 0),
        ):
            assert np.array_equal(core.data(address, length), expected.data(address, length))
        assert np.array_equal(core.tags(RAM, SIZE), expected.tags(RAM, SIZE))
        assert core.machine == expected.machine
        assert core.regions == expected.regions
        assert (describe(core)["compressed"], describe(expected)["compressed"]) == (True, False)
        with pytest.raises(ValueError, match="read-only"):
            core.data(RAM, 1)[0] = 1


def test_compressed_core_is_decompressed_only_where_it_is_read(
    packed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_core(packed) as core:
        read: list[int] = []
        decompress = compressed._decompress

        def count(file: FileSource, frame: compressed.Frame) -> NDArray[np.uint8]:
            read.append(frame.core_at)
            return decompress(file, frame)

        monkeypatch.setattr(compressed, "_decompress", count)

        core.data(RAM + 2 * MIB, PAGE)
        core.data(RAM + 2 * MIB + PAGE, PAGE)

    assert len(read) == 1


def test_pack_says_how_far_it_is(plain: Path, tmp_path: Path) -> None:
    said: list[tuple[int, int]] = []

    pack(plain, tmp_path / "a.zst", progress=lambda done, total: said.append((done, total)))

    assert said[-1] == (plain.stat().st_size, plain.stat().st_size)
    assert [done for done, _ in said] == sorted({done for done, _ in said})
    assert len(said) == -(-plain.stat().st_size // compressed.FRAME_BYTES)


def test_pack_does_not_read_holes(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    real = packing._compress_at

    def count(fd: int, at: int, size: int, level: int) -> tuple[bytes, int, int]:
        read.append(at)
        return real(fd, at, size, level)

    monkeypatch.setattr(packing, "_compress_at", count)

    pack(plain, tmp_path / "a.zst")

    assert len(read) < 10


def test_unpack_says_how_far_it_is(packed: Path, plain: Path, tmp_path: Path) -> None:
    said: list[tuple[int, int]] = []

    unpack(packed, tmp_path / "a", progress=lambda done, total: said.append((done, total)))

    assert said[-1] == (plain.stat().st_size,) * 2


def test_pack_of_a_compressed_core_is_refused(packed: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is compressed already"):
        pack(packed, tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_unpack_of_a_plain_core_is_refused(plain: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not compressed"):
        unpack(plain, tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_pack_on_a_full_disk_leaves_nothing(plain: Path, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, hard))
        with pytest.raises(HostError, match="File too large"):
            pack(plain, tmp_path / "a.zst")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert list(tmp_path.iterdir()) == []


def opened(tmp_path: Path, raw: bytes) -> Core:
    path = tmp_path / "a.zst"
    path.write_bytes(raw)
    return open_core(path)


@pytest.fixture(scope="module")
def small(plain: Path) -> bytes:
    """A compressed core of two pages."""
    path = plain.with_name("small.core")
    write_core(path, notes(2 * PAGE), [random_planes(2 * PAGE)[0]])
    pack(path, path.with_suffix(".zst"))
    return path.with_suffix(".zst").read_bytes()


def test_compressed_core_cut_at_every_byte_is_refused(small: bytes, tmp_path: Path) -> None:
    for size in (*range(1, 64), *range(64, len(small), 61), *range(len(small) - 40, len(small))):
        with pytest.raises(MalformedCoreError):
            opened(tmp_path, small[:size])


def test_compressed_core_cut_short_says_what_it_is(small: bytes, tmp_path: Path) -> None:
    with pytest.raises(
        MalformedCoreError,
        match=r"compressed core offset 0x[0-9a-f]+: the file is zstd but does not end in a seek",
    ):
        opened(tmp_path, small[:-1])


def test_compressed_core_with_any_bit_flipped_is_refused_or_harmless(
    small: bytes, tmp_path: Path
) -> None:
    damaged = bytearray(small)
    expected, harmless = random_planes(2 * PAGE)[0], 0
    for place in (*range(40), *range(40, len(small) - 40, 37), *range(len(small) - 40, len(small))):
        damaged[place] ^= 1 << place % 8
        try:
            with opened(tmp_path, bytes(damaged)) as core:
                assert np.array_equal(core.data(RAM, 2 * PAGE), expected), place
                harmless += 1
        except MalformedCoreError:
            pass
        damaged[place] ^= 1 << place % 8
    assert harmless < 5


def entry_of(archived: bytes) -> tuple[int, int, int]:
    """Return the only entry of a compressed core's seek table: sizes and checksum."""
    compressed, core, checksum = struct.unpack_from("<III", archived, len(archived) - 21)
    return compressed, core, checksum


def with_table(
    frame: bytes, entry: tuple[int, ...], *, count: int = 1, descriptor: int = 0x80
) -> bytes:
    """Return a frame and a seek table of one entry behind it."""
    table = struct.pack(f"<{len(entry)}I", *entry)
    footer = struct.pack("<IBI", count, descriptor, 0x8F92EAB1)
    head = struct.pack("<II", 0x184D2A5E, len(table) + len(footer))
    return frame + head + table + footer


def test_compressed_core_without_checksums_is_read(small: bytes, tmp_path: Path) -> None:
    compressed, core_bytes, _ = entry_of(small)

    with opened(
        tmp_path, with_table(small[:compressed], (compressed, core_bytes), descriptor=0)
    ) as core:
        assert core.data(RAM, 8).size == 8


@pytest.mark.parametrize(
    ("entry", "count", "descriptor", "message"),
    [
        ((), 0xFFFF_FFFF, 0x80, "a seek table of 0xffffffff frames is longer than the file"),
        ((), 2, 0x80, "a skippable frame of 0x21 bytes with the seek table must start here"),
        ((), 1, 0xC0, "the seek table's descriptor 0xc0 has reserved bits set"),
        ((1, 2, 3), 1, 0x80, "the frames take 0x1 bytes by the seek table, but it starts at"),
        ((1, 1 << 31, 0), 1, 0x80, "frame 0x0 holds 0x80000000 bytes: 0x4000000 are possible"),
    ],
)
def test_compressed_core_with_a_hostile_seek_table_is_refused(
    small: bytes, tmp_path: Path, entry: tuple[int, ...], count: int, descriptor: int,
    message: str,
) -> None:  # fmt: skip
    usual = entry_of(small)
    raw = with_table(small[: usual[0]], entry or usual, count=count, descriptor=descriptor)

    with pytest.raises(MalformedCoreError, match=message):
        opened(tmp_path, raw)


@pytest.mark.parametrize(
    ("has_size", "message"),
    [(True, "the frame's size is not the one in the seek"), (False, "frame does not decompress")],
)
def test_frame_that_holds_more_than_the_table_says_is_refused(
    tmp_path: Path, has_size: bool, message: str
) -> None:
    bomb = zstandard.ZstdCompressor(write_content_size=has_size).compress(bytes(64 << 20))

    with pytest.raises(MalformedCoreError, match=message):
        opened(tmp_path, with_table(bomb, (len(bomb), PAGE, 0)))


def test_compressed_core_with_empty_frames_is_read(small: bytes, tmp_path: Path) -> None:
    compressed, core_bytes, checksum = entry_of(small)
    nothing = zstandard.ZstdCompressor().compress(b"")
    empty = (len(nothing), 0, frame_checksum(np.empty(0, np.uint8)))
    entries = (*empty, compressed, core_bytes, checksum, *empty)
    raw = with_table(nothing + small[:compressed] + nothing, entries, count=3)

    with opened(tmp_path, raw) as core:
        assert np.array_equal(core.data(RAM, 2 * PAGE), random_planes(2 * PAGE)[0])
    assert unpack(tmp_path / "a.zst", tmp_path / "a").size_bytes == core_bytes


def test_plain_zstd_is_named_as_such(plain: Path, tmp_path: Path) -> None:
    raw = zstandard.ZstdCompressor().compress(plain.read_bytes()[: 8 * PAGE])

    with pytest.raises(MalformedCoreError, match=r"`zstd -d` makes a plain core of it"):
        opened(tmp_path, raw)
