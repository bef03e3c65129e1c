"""Builds ELF cores byte by byte, also ones that no writer of ours would write."""

import struct
from dataclasses import dataclass, field

PT_LOAD, PT_NOTE, PT_MEMTAG = 1, 4, 0x7000_0002
NT_PRSTATUS, NT_FPREGSET, NT_AUXV, NT_TAGGED_ADDR_CTRL = 1, 2, 6, 0x409
AT_HWCAP2, HWCAP2_MTE = 26, 1 << 18
PAGE = 4096


@dataclass
class Segment:
    """One program header and its bytes; sizes follow from them unless they are given."""

    type: int
    content: bytes
    address: int = 0
    size_bytes: int | None = None
    file_bytes: int | None = None
    physical: int = 0
    flags: int = 0
    alignment: int = 0
    offset: int | None = None


def load(address: int, content: bytes, **rest: int) -> Segment:
    return Segment(PT_LOAD, content, address, flags=7, alignment=PAGE, **rest)


def tag_segment(address: int, packed: bytes, **rest: int) -> Segment:
    rest.setdefault("size_bytes", len(packed) * 32)
    return Segment(PT_MEMTAG, packed, address, **rest)


def note(owner: bytes, kind: int, content: bytes, align: int = 4) -> bytes:
    def padded(raw: bytes) -> bytes:
        return raw + bytes(-len(raw) % align)

    head = struct.pack("<III", len(owner) + 1, len(content), kind)
    return padded(head + owner + b"\0") + padded(content)


def prstatus(thread: int = 1, *, pc: int = 0x40_0000, signal: int = 0) -> bytes:
    raw = bytearray(392)
    struct.pack_into("<H", raw, 12, signal)
    struct.pack_into("<I", raw, 32, thread)
    for number in range(31):
        struct.pack_into("<Q", raw, 112 + 8 * number, 0x1000 * thread + number)
    struct.pack_into("<QQQ", raw, 112 + 8 * 31, 0x7F_0000, pc, 0x6000_0000)
    return note(b"CORE", NT_PRSTATUS, bytes(raw))


def fpregset() -> bytes:
    vectors = b"".join((0x0101 * number).to_bytes(16, "little") for number in range(32))
    return note(b"CORE", NT_FPREGSET, vectors + struct.pack("<IIQ", 0x11, 0x22, 0))


def auxv(hwcap2: int = HWCAP2_MTE) -> bytes:
    return note(b"CORE", NT_AUXV, struct.pack("<6Q", 6, PAGE, AT_HWCAP2, hwcap2, 0, 0))


def tagged_addr_ctrl(word: int = 0x7FFF3) -> bytes:
    return note(b"LINUX", NT_TAGGED_ADDR_CTRL, struct.pack("<Q", word))


def usual_notes() -> bytes:
    return prstatus() + auxv() + fpregset() + tagged_addr_ctrl()


@dataclass
class CoreBuilder:
    """Segments in the order of the file; `notes` go into a PT_NOTE before them."""

    segments: list[Segment] = field(default_factory=list)
    notes: bytes = field(default_factory=usual_notes)
    machine: int = 183
    type: int = 4

    def build(self) -> bytes:
        parts = [Segment(PT_NOTE, self.notes, alignment=4), *self.segments]
        headers = struct.pack(
            "<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", self.type, self.machine, 1, 0, 64, 0, 0,
            64, 56, len(parts), 0, 0, 0,
        )  # fmt: skip
        body = b""
        start = -(-(64 + 56 * len(parts)) // PAGE) * PAGE
        for part in parts:
            offset = start + len(body) if part.offset is None else part.offset
            headers += struct.pack(
                "<IIQQQQQQ", part.type, part.flags, offset, part.address, part.physical,
                len(part.content) if part.file_bytes is None else part.file_bytes,
                len(part.content) if part.size_bytes is None else part.size_bytes,
                part.alignment,
            )  # fmt: skip
            if part.offset is None:
                body += part.content + bytes(-len(part.content) % PAGE)
        return headers.ljust(start, b"\0") + body
