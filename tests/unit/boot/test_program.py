import struct
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tagalong.boot import (
    BOOT_BLOCK,
    BOOT_MAGIC,
    boot_guest,
    guest_image_path,
    parse_image,
    reported_status,
)
from tagalong.errors import GuestImageError
from tagalong.machine import register_ids
from tagalong.memory import Gpa
from tagalong.soft import RAM_GPA, SoftMachine
from tests.support.cases import check_each

Segments = tuple[tuple[int, bytes, int], ...]
ONE: Segments = ((0x40200000, b"code", 0x2000),)


def image(segments: Segments = ONE, *, entry: int = 0x40200000, machine: int = 183) -> bytes:
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01", 2, machine, 1, entry, 64, 0, 0, 64, 56, len(segments), 0, 0, 0,
    )  # fmt: skip
    table, body = b"", b""
    start = 64 + 56 * len(segments)
    for gpa, data, memory_bytes in segments:
        offset = start + len(body)
        table += struct.pack("<IIQQQQQQ", 1, 5, offset, gpa, gpa, len(data), memory_bytes, 4096)
        body += data
    return header + table + body


def machine() -> SoftMachine:
    return SoftMachine.create(ram_bytes=8 << 20, vcpu_count=2)


def test_boot_guest_places_image_block_and_registers() -> None:
    target = machine()

    boot_guest(target, image(), command_line="a=1 b=2", seed=9)

    assert target.memory.read(Gpa(0x40200000), 4) == b"code"
    block = target.memory.read(RAM_GPA, 48)
    assert BOOT_BLOCK.unpack_from(block) == (BOOT_MAGIC, RAM_GPA, 8 << 20, 2, 7, 9)
    assert block[BOOT_BLOCK.size :] == b"a=1 b=2\0"
    assert block.startswith(b"AGALTBT1")
    assert target.vcpus[0].get_register(register_ids.PC) == 0x40200000
    assert target.vcpus[0].get_register(register_ids.x(0)) == RAM_GPA
    target.close()


def test_boot_guest_pages_not_in_the_image_stay_holes() -> None:
    target = machine()

    boot_guest(target, image())

    assert target.populated_pages()[0].pages().tolist() == [0, 0x200]
    target.close()


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"", r"offset 0x0: the file ends at 0x0, before the end of the ELF header"),
        (b"\x7fELF\x01" + bytes(100), r"offset 0x4: EI_CLASS \(64 bits\) is 0x1, not 0x2"),
        (image(machine=62), r"offset 0x12: e_machine \(AArch64\) is 0x3e, not 0xb7"),
        (image()[:100], r"offset 0x64: the file ends at 0x64, before the end of the program"),
        (image(((0x40200000, b"a", 2),) * 1025), r"offset 0x38: 0x401 program headers: 0x400 are"),
        (
            image(((0x40200000, b"a", 0x2000), (0x40201000, b"b", 1))),
            r"guest segments 0x40200000\+0x2000 and 0x40201000\+0x1 overlap",
        ),
        (image(()), r"offset 0x40: no PT_LOAD segment"),
        (image()[:-1], r"offset 0x40: segment of 0x4 bytes at 0x78 .* does not fit in 0x7b"),
        (image(((0x40200000, b"code", 2),)), r"offset 0x40: segment of 0x4 bytes .*memory 0x2"),
        (image(((0x80000000, b"code", 4),)), r"guest segment 0x80000000\+0x4 is not in RAM"),
        (image(((0x40000000, b"code", 4),)), r"covers 0x40000000, the start of RAM"),
    ],
)
def test_boot_guest_bad_image_is_refused_with_the_place(contents: bytes, message: str) -> None:
    target = machine()

    with pytest.raises(GuestImageError, match=message):
        boot_guest(target, contents)
    target.close()


@pytest.mark.parametrize("text", ["é", "a" * 2049, "a\0b"])
def test_boot_guest_bad_command_line_is_refused(text: str) -> None:
    target = machine()

    with pytest.raises(GuestImageError, match="guest command line"):
        boot_guest(target, image(), command_line=text)
    target.close()


@settings(max_examples=200)
@given(position=st.integers(0, 123), value=st.integers(0, 255))
def test_parse_image_any_byte_changed_parses_or_is_refused_by_type(
    position: int, value: int
) -> None:
    contents = bytearray(image())
    contents[position] = value

    try:
        parsed = parse_image(bytes(contents))
    except GuestImageError:
        return
    assert sum(len(s.data) for s in parsed.segments) <= len(contents)


def test_parse_image_truncated_anywhere_is_refused() -> None:
    whole = image()

    def check(length: int) -> None:
        with pytest.raises(GuestImageError, match="guest image offset"):
            parse_image(whole[:length])

    check_each(range(len(whole)), check)


def test_guest_image_path_unknown_name_lists_the_known() -> None:
    with pytest.raises(GuestImageError, match=r"no built-in guest .nothing.; there are: .*speed"):
        guest_image_path("nothing")


def bomb(count: int, body_bytes: int) -> bytes:
    """Return an image whose `count` segments all have the same body, at addresses of their own."""
    header = bytearray(image(())[:64])
    struct.pack_into("<H", header, 56, count)
    body_at = 64 + 56 * count
    table = (
        struct.pack("<IIQQQQQQ", 1, 5, body_at, gpa, gpa, body_bytes, body_bytes, 4096)
        for gpa in range(0x40200000, 0x40200000 + 16 * count, 16)
    )
    return bytes(header) + b"".join(table) + bytes(body_bytes)


def test_parse_image_of_many_segments_over_one_body_is_refused_and_takes_no_memory() -> None:
    many, overlapping = bomb(60_000, 1 << 20), bomb(1000, 1 << 20)
    found = []
    tracemalloc.start()

    for contents in (many, overlapping):
        with pytest.raises(GuestImageError) as caught:
            parse_image(contents)
        found.append(str(caught.value))
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert found == [
        "guest image offset 0x38: 0xea60 program headers: 0x400 are possible",
        "guest segments 0x40200000+0x100000 and 0x40200010+0x100000 overlap",
    ]
    assert peak_bytes < 16 << 20  # the bodies would be 60 GB and 1 GB


def test_reported_status_is_what_the_guest_left_in_place_of_the_boot_block() -> None:
    target = machine()

    assert reported_status(target) is None
    boot_guest(target, image())
    assert reported_status(target) is None
    for status in (0, 1, 2, (1 << 64) - 1):
        target.memory.write(RAM_GPA, struct.pack("<8sQ", b"AGALTEND", status))
        assert reported_status(target) == status

    target.close()
