"""Opens a core, also one that zstd compressed as one stream, as systemd and people do.

Such a file has no seek table, so it is unpacked once, into a temporary file without a name: it is
gone when nobody reads it any more, even if the reader is killed. What is zero becomes a hole: a
small file that claims to be huge takes no disk.
"""

import os
import tempfile
from pathlib import Path
from typing import Final

import zstandard

from tagalong.core.reader import Core, open_core
from tagalong.errors import HostError, MalformedCoreError
from tagalong.files import name_failure

MAX_UNPACKED_BYTES: Final = 32 << 30
_PIECE_BYTES: Final = 1 << 20
_ZEROS: Final = bytes(_PIECE_BYTES)
_MAX_WINDOW_BYTES: Final = 128 << 20
_ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_ELF_MAGIC: Final = b"\x7fELF"


def starts_as_core(path: Path) -> bool:
    """Return whether a file is an ELF file, compressed or not. Raises HostError."""
    try:
        with path.open("rb") as file:
            head = file.read(len(_ELF_MAGIC))
            if head != _ZSTD_MAGIC:
                return head == _ELF_MAGIC
            file.seek(0)
            reader = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES)
            return reader.stream_reader(file).read(len(_ELF_MAGIC)) == _ELF_MAGIC
    except zstandard.ZstdError:
        return True
    except (OSError, ValueError) as error:
        raise name_failure("cannot open", path, error) from error


def open_any_core(path: Path) -> Core:
    """Open a core: plain, in the seekable format, or a plain zstd stream.

    Raises what `open_core` raises, and MalformedCoreError for a stream that is damaged, or holds
    more than MAX_UNPACKED_BYTES.
    """
    try:
        return open_core(path)
    except MalformedCoreError as error:
        # Only the lack of a seek table is nothing to complain about.
        if error.what.rpartition(": ")[2] != "compressed core" or not _is_stream(path):
            raise
    return _unpacked(path)


def _open_as(plain: int, path: Path) -> Core:
    """Open the core in a descriptor; errors name the file that the user gave."""
    name = f"/proc/self/fd/{plain}"
    try:
        return open_core(name)
    except MalformedCoreError as error:
        # The advice may name the file, and a reader has to unpack it first.
        reason = error.reason.replace(name, "UNPACKED")
        raise MalformedCoreError(
            reason, offset=error.offset, what=f"{path}: unpacked core"
        ) from None  # its own text names the descriptor


def _is_stream(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_ZSTD_MAGIC)) == _ZSTD_MAGIC


def _unpacked(path: Path) -> Core:
    try:
        with path.open("rb") as packed, tempfile.TemporaryFile() as plain:
            size = 0
            reader = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES).stream_reader(
                packed, read_across_frames=True
            )
            while piece := reader.read(_PIECE_BYTES):
                if not _ZEROS.startswith(piece):
                    os.pwrite(plain.fileno(), piece, size)
                size += len(piece)
                if size > MAX_UNPACKED_BYTES:
                    raise MalformedCoreError(
                        f"it holds more than {MAX_UNPACKED_BYTES:#x} bytes; unpack it with "
                        "`zstd -d` and give that file",
                        offset=packed.tell(),
                        what=f"{path}: compressed core",
                    )
            os.ftruncate(plain.fileno(), size)
            return _open_as(plain.fileno(), path)
    except zstandard.ZstdError as error:
        raise MalformedCoreError(
            f"it does not decompress: {error}", offset=0, what=f"{path}: compressed core"
        ) from error
    except OSError as error:
        raise HostError(f"cannot unpack {path}: {error.strerror}") from error
