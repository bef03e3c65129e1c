"""Unpacks compressed kernels within bounds: what a few bytes can claim to hold has no end.

Sources: RFC 1952 (gzip), RFC 8878 (zstd), section 3.1.1 for where a frame ends.
"""

import zlib
from typing import TYPE_CHECKING, Final

from tagalong._lazy import module_when_used
from tagalong.errors import GuestImageError

if TYPE_CHECKING:
    import zstandard
else:
    zstandard = module_when_used("zstandard")

_GZIP_WINDOW: Final = 31  # zlib's way to ask for gzip, with the largest window
_CHECKSUM_BYTES: Final = 4
_BLOCK_HEADER_BYTES: Final = 3
_LAST_BLOCK: Final = 1
_REPEATED: Final = 1
_CHUNK_BYTES: Final = 1 << 20

# Kernels are packed with `zstd -22 --ultra`, whose window this is.
_MAX_WINDOW_BYTES: Final = 128 << 20


GZIP_MAGIC: Final = b"\x1f\x8b"
_GZIP_MEMBER: Final = GZIP_MAGIC + b"\x08"  # a size that a build appends could be the first two
ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"


def gunzip(packed: memoryview, most_bytes: int) -> bytes:
    """Return what the gzip member at the start of `packed` holds; what follows it is ignored.

    Raises GuestImageError if it is damaged, cut short, or holds more than `most_bytes`, or if
    another member follows.
    """
    unpacker = zlib.decompressobj(_GZIP_WINDOW)
    try:
        unpacked = unpacker.decompress(packed, most_bytes + 1)
    except zlib.error as error:
        raise GuestImageError(f"kernel: cannot unpack it with gzip: {error}") from error
    _require_at_most(len(unpacked), most_bytes)
    if not unpacker.eof:
        raise GuestImageError(
            f"kernel: its gzip data end early, after {len(packed):#x} bytes; the file was cut short"
        )
    _require_no_other(unpacker.unused_data, _GZIP_MEMBER, "gzip")
    return unpacked


def unzstd(packed: memoryview, most_bytes: int) -> bytes:
    """Return what the zstd frame at the start of `packed` holds; what follows it is ignored.

    Raises as gunzip.
    """
    unpacked = bytearray()
    try:
        end = _frame_bytes(packed)
        frame = packed[:end]
        reader = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES).stream_reader(frame)
        while chunk := reader.read(_CHUNK_BYTES):
            unpacked += chunk
            _require_at_most(len(unpacked), most_bytes)
    except zstandard.ZstdError as error:
        raise GuestImageError(f"kernel: cannot unpack it with zstd: {error}") from error
    _require_no_other(packed[end : end + len(ZSTD_MAGIC)], ZSTD_MAGIC, "zstd")
    return bytes(unpacked)


def _frame_bytes(packed: memoryview) -> int:
    """Return how long the frame is: the decompressor does not tell a cut frame from a whole one."""
    at = int(zstandard.frame_header_size(packed))
    has_checksum = bool(zstandard.get_frame_parameters(packed).has_checksum)
    is_last = False
    while not is_last:
        _require_bytes(packed, at + _BLOCK_HEADER_BYTES)
        header = int.from_bytes(packed[at : at + _BLOCK_HEADER_BYTES], "little")
        is_last = bool(header & _LAST_BLOCK)
        stored_bytes = 1 if header >> 1 & 3 == _REPEATED else header >> 3
        at += _BLOCK_HEADER_BYTES + stored_bytes
    end = at + (_CHECKSUM_BYTES if has_checksum else 0)
    _require_bytes(packed, end)
    return end


def _require_bytes(packed: memoryview, needed: int) -> None:
    if len(packed) < needed:
        raise GuestImageError(
            f"kernel: its zstd data end early, after {len(packed):#x} bytes; the file was cut short"
        )


def _require_no_other(rest: bytes | memoryview, magic: bytes, program: str) -> None:
    """Refuse what was packed in parts: the first of them alone would run, and fail silently."""
    if rest[: len(magic)] == magic:
        raise GuestImageError(
            f"kernel: it is packed with {program} in several parts; unpack it, or pack it as one"
        )


def _require_at_most(unpacked_bytes: int, most_bytes: int) -> None:
    if unpacked_bytes > most_bytes:
        raise GuestImageError(f"kernel: unpacked, it has more than {most_bytes:#x} bytes")
