"""Kernel files made for tests: headers as booting.rst and zboot-header.S give them."""

import gzip
import struct

import zstandard

NOP = struct.pack("<I", 0xD503201F)


def image(
    *,
    text_offset: int = 0,
    image_size: int | None = None,
    flags: int = 0b1010,
    body: bytes = NOP * 64,
    magic: bytes = b"ARM\x64",
) -> bytes:
    """Return an Image whose first instruction branches over its header."""
    size = 64 + len(body) if image_size is None else image_size
    branch = struct.pack("<II", 0x14000010, 0)
    return branch + struct.pack("<QQQQQQ4sI", text_offset, size, flags, 0, 0, 0, magic, 0) + body


def zboot(
    payload: bytes, compression: bytes, *, offset: int = 64, size: int | None = None
) -> bytes:
    """Return an EFI zboot program with `payload`."""
    given = len(payload) if size is None else size
    head = struct.pack("<4s4sII8s32s", b"MZ\0\0", b"zimg", offset, given, bytes(8), compression)
    return head.ljust(64, b"\0") + payload


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True).compress(data)


def gz(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)
