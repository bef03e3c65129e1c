"""Shared libraries without sections: smaller, and the loader does not notice."""

import ctypes
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from tagalong._native import LIBRARY_FOLDER
from tagalong.lab.elf import stripped

LIBRARY = LIBRARY_FOLDER / "libtagalong.so"


def test_stripped_library_is_smaller_and_still_loads(tmp_path: Path) -> None:
    data = LIBRARY.read_bytes()
    target = tmp_path / "lib.so"

    target.write_bytes(stripped(data))

    assert target.stat().st_size < len(data)
    script = f"import ctypes; print(ctypes.CDLL({str(target)!r}).ta_abi_version())"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(run.stdout) == ctypes.CDLL(str(LIBRARY)).ta_abi_version()


def test_stripped_library_has_no_section_table() -> None:
    data = stripped(LIBRARY.read_bytes())

    assert struct.unpack_from("<Q", data, 40) == (0,)
    assert struct.unpack_from("<HH", data, 60) == (0, 0)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"text",
        b"\x7fELF\x01\x01" + bytes(100),
        b"\x7fELF\x02\x01",
        b"\x7fELF\x02\x01" + bytes(99),
    ],
)
def test_stripped_leaves_what_is_no_library_as_it_is(data: bytes) -> None:
    assert stripped(data) == data


def test_stripped_truncated_anywhere_never_fails() -> None:
    data = LIBRARY.read_bytes()

    for length in range(1024):
        assert len(stripped(data[:length])) <= length
