"""Compiles Python files for the lab on the host, which is a hundred times as fast.

Byte code belongs to one version of Python (PEP 3147). If the host's version is another one,
the lab compiles what it imports by itself, in every run: slower, and nothing else.
"""

import importlib.util
import marshal
import struct
import sys
import warnings
from pathlib import PurePosixPath

from tagalong.lab.cpio import CpioWriter

_TIMESTAMP_BASED = 0

# What archives with byte code are made from, beside their sources.
HOST_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


def add_python(writer: CpioWriter, path: str, source: bytes, *, mtime_s: int, python: str) -> None:
    """Add a Python file, and its byte code for Python `python` ("3.11") if we can make it."""
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
    """Return the contents of a .pyc file (PEP 552), or None if the source is not valid."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            code = compile(source, f"/{path}", "exec", dont_inherit=True, optimize=0)
        except (SyntaxError, ValueError):
            return None
    head = struct.pack("<3I", _TIMESTAMP_BASED, mtime_s, len(source) & 0xFFFF_FFFF)
    return importlib.util.MAGIC_NUMBER + head + marshal.dumps(code)
