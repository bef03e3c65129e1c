"""Headers of ELF files as values: round trips, and what hostile files claim."""

import random
import struct
import time
from collections.abc import Sequence

import pytest

from tagalong.binary import elf
from tagalong.binary.layout import MalformedError
from tests.support.cases import check_each

ROWS = [(1, 5, 0x100, 0x4000, 0x5000, 0x10, 0x20, 8), (4, 0, 0xF8, 0, 0, 0x10, 0, 4)]


def image(
    rows: Sequence[tuple[int, ...]] = ROWS, *, phnum: int | None = None, shoff: int = 0
) -> bytes:
    header = elf.ElfHeader.new(
        kind=elf.ET_CORE, machine=elf.EM_AARCH64, phnum=len(rows) if phnum is None else phnum,
        shoff=shoff,
    )  # fmt: skip
    return header.pack() + b"".join(struct.pack("<IIQQQQQQ", *row) for row in rows)


def parse(raw: bytes, most: int = 100) -> list[elf.ProgramHeader]:
    view = elf.view_of(raw)
    header = elf.read_elf_header(view, len(raw))
    return elf.read_program_headers(view, len(raw), header, most=most)


def test_elf_header_round_trip_is_the_same() -> None:
    raw = image()

    header = elf.read_elf_header(elf.view_of(raw), len(raw))

    assert header.pack() == raw[:64]
    assert (header.type, header.machine, header.phnum, header.osabi) == (4, 183, 2, 0)


def test_program_headers_have_their_fields_and_what_the_file_has_of_them() -> None:
    first, second = parse(image().ljust(0x103, b"\0"))

    assert first == elf.ProgramHeader(
        at=64, type=1, flags=5, offset=0x100, address=0x4000, physical=0x5000, file_bytes=0x10,
        size_bytes=0x20, alignment=8, available=3,
    )  # fmt: skip
    assert (first.end, first.is_cut) == (0x4020, True)
    assert (second.at, second.available, second.is_cut) == (120, 0xB, True)


def test_program_headers_more_than_e_phnum_holds_are_counted_by_section_header_0() -> None:
    rows = [ROWS[0]] * 0x1_0001
    plain = image(rows)
    at = len(plain)
    section = elf.SECTION_HEADER.pack(
        **{name: 0x1_0001 if name == "sh_info" else 0 for name, _ in elf.SECTION_HEADER.fields}
    )

    headers = parse(image(rows, shoff=at) + section, most=0x1_0001)

    assert len(headers) == 0x1_0001
    assert headers[-1].at == 64 + 56 * 0x1_0000


def test_program_headers_beyond_the_limit_are_refused_before_they_are_read() -> None:
    def view(offset: int, length: int) -> bytes:
        assert offset + length <= 64
        return image()[offset : offset + length]

    header = elf.read_elf_header(view, 1 << 40)

    with pytest.raises(MalformedError, match="0x2 program headers: 0x1 are possible"):
        elf.read_program_headers(view, 1 << 40, header, most=1)


def test_program_headers_where_numbers_are_as_large_as_they_can_be_do_not_wrap() -> None:
    top = (1 << 64) - 1

    (header,) = parse(image([(1, 0, top, top, top, top, top, top)]))

    assert (header.available, header.is_cut) == (0, True)
    assert header.end == 2 * top


def test_headers_truncated_anywhere_are_refused_with_the_place() -> None:
    raw = image()

    def check(length: int) -> None:
        with pytest.raises(MalformedError, match=r"^the file ends at") as caught:
            parse(raw[:length])
        assert caught.value.offset in (0, length)

    check_each(range(len(raw)), check)


def test_headers_with_any_byte_changed_parse_or_are_refused() -> None:
    draw = random.Random(1)

    for place in range(len(image())):
        raw = bytearray(image())
        raw[place] = draw.randrange(256)
        try:
            headers = parse(bytes(raw))
        except MalformedError:
            continue
        assert all(header.available <= len(raw) for header in headers)


def test_time_for_headers_grows_as_their_number() -> None:
    def seconds(count: int) -> float:
        raw = image([ROWS[0]] * count, phnum=0)
        header = elf.read_elf_header(elf.view_of(raw), len(raw))._replace(
            phnum=elf.PN_XNUM, shoff=len(raw)
        )
        section = elf.SECTION_HEADER.pack(
            **{name: count if name == "sh_info" else 0 for name, _ in elf.SECTION_HEADER.fields}
        )
        view = elf.view_of(raw + section)
        began = time.thread_time()
        assert len(elf.read_program_headers(view, len(raw) + 64, header, most=count)) == count
        return time.thread_time() - began

    def growth() -> float:
        few, many = (min(seconds(count) for _ in range(5)) for count in (8_000, 128_000))
        return many / few

    # 16 times the headers. A busy host takes caches away, which costs the many more than the few;
    # a time that grows as the square would be at 256.
    assert any(growth() < 100 for _ in range(10))


def test_note_and_program_header_sizes_are_those_of_linux() -> None:
    sizes = [elf.ELF_HEADER.size, elf.PROGRAM_HEADER.size, elf.SECTION_HEADER.size]

    assert [*sizes, elf.NOTE_HEADER.size] == [64, 56, 64, 12]
