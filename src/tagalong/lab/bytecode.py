"""Compiles Python files for the lab on the host, a hundred times faster than under emulation.

Byte code belongs to one version of Python (PEP 3147). If the host runs another version, the lab
compiles its imports itself in every run, which is slower and otherwise the same.
"""

import importlib.util
import marshal
import struct
import sys
import warnings
from pathlib import PurePosixPath

from tagalong.lab.cpio import CpioWriter

_TIMESTAMP_BASED = 0

# Part of the key of each archive with byte code.
HOST_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


def add_python(writer: CpioWriter, path: str, source: bytes, *, mtime_s: int, python: str) -> None:
    """Add a Python file, with byte code if the host runs the same Python `python` ("3.11")."""
    writer.add_file(path, source, mtime_s=mtime_s)
    if python != HOST_PYTHON:
        return
    code = _compile(path, source, mtime_s)
    if code is not None:
        place = PurePosixPath(path)
        tag = sys.implementation.cache_tag
        writer.add_file(
            str(place.parent / "__pycache__" / f"{place.stem}.{tag}.pyc"), code, mtime_s=mtime_s
        )


def _compile(path: str, source: bytes, mtime_s: int) -> bytes | None:
    """Return the contents of a .pyc file (PEP 552), or None if the source does not compile."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            code = compile(source, f"/{path}", "exec", dont_inherit=True, optimize=0)
        except (SyntaxError, ValueError):
            return None
    head = struct.pack("<3I", _TIMESTAMP_BASED, mtime_s, len(source) & 0xFFFF_FFFF)
    return importlib.util.MAGIC_NUMBER + head + marshal.dumps(code)
