"""Byte code made for the lab is what Python itself would make."""

import importlib.util
import io
import os
import subprocess
import sys
from pathlib import Path

from tagalong.lab.bytecode import HOST_PYTHON, add_python
from tagalong.lab.cpio import CpioWriter
from tests.support.cpio_reader import Entry, read_by_path


def archive(path: str, source: bytes, python: str = HOST_PYTHON) -> dict[str, Entry]:
    out = io.BytesIO()
    writer = CpioWriter(out)
    add_python(writer, path, source, mtime_s=1_700_000_000, python=python)
    writer.close()
    return {p: e for p, e in read_by_path(out.getvalue()).items() if not e.is_folder}


def test_byte_code_is_taken_by_python_in_place_of_the_source(tmp_path: Path) -> None:
    entries = archive("pkg/mod.py", b"print('from', __cached__)\n")
    for path, entry in entries.items():
        place = tmp_path / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(entry.data)
    source = tmp_path / "pkg" / "mod.py"
    # Same size and time: if Python did not take the byte code, it would print something else.
    source.write_bytes(b"print('else', __cached__)\n")
    os.utime(source, (1_700_000_000, 1_700_000_000))

    run = subprocess.run(
        [sys.executable, "-c", "import pkg.mod"], cwd=tmp_path, capture_output=True, text=True,
        check=True,
    )  # fmt: skip

    assert run.stdout.startswith("from ")


def test_byte_code_has_the_name_that_python_looks_for() -> None:
    (_, code) = sorted(archive("a/mod.py", b""), key=len)

    assert f"/{code}" == importlib.util.cache_from_source("/a/mod.py")


def test_other_version_of_python_gets_the_source_only() -> None:
    assert list(archive("a/mod.py", b"x = 1\n", python="3.99")) == ["a/mod.py"]


def test_source_that_does_not_compile_is_taken_as_it_is() -> None:
    entries = archive("a/template.py", b"{{ name }} = ?\n")

    assert list(entries) == ["a/template.py"]
    assert entries["a/template.py"].data == b"{{ name }} = ?\n"


def test_source_with_doubtful_escapes_compiles_without_a_warning() -> None:
    assert len(archive("a/mod.py", b"x = '\\d'\n")) == 2
