"""Packs the current checkout for the lab: code, tests, and the native library for arm64."""

import os
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

from tagalong.errors import LabSetupError
from tagalong.lab.bytecode import add_python
from tagalong.lab.cpio import CpioWriter
from tagalong.lab.tools import output_of
from tagalong.lab.wheels import SCRIPTS, script

ARCHIVE = "checkout.cpio"

# The checkout's folder in the lab.
PLACE = "tagalong"

_FOLDERS = ("src", "tests", "bench", "docs", "native", "guests")
_FILES = ("pyproject.toml", "constraints.txt", "README.md", "ARCHITECTURE.md", "Makefile")
_SOURCES = ("native", "guests", "tests/programs")

# Built for the host, or left behind by tools.
_NOT_TAKEN = frozenset(("_lib", "__pycache__"))

_LIBRARY_FOLDER = f"{PLACE}/src/tagalong/_lib"
LINUX_PROGRAMS = "linux"
_PROGRAMS = (LINUX_PROGRAMS, "glibc")
_TEST_PREFIX = "test_"


def find_checkout() -> Path:
    """Return the root of the checkout that this code runs from. Raises LabSetupError."""
    root = Path(__file__).resolve().parents[3]
    if not (root / "native" / "toolchain.py").exists():
        raise LabSetupError(
            "the lab runs a source checkout of tagalong, and this is an installed package; "
            "get the sources and use `pip install -e .` there"
        )
    return root


def native_sources(root: Path) -> list[Path]:
    """Return the sources of the native library, the guests and the tests' programs."""
    return _files_below(root, _SOURCES)


def all_files(root: Path) -> list[Path]:
    """Return all files of the checkout that the lab needs."""
    return [*_files_below(root, _FOLDERS), *(f for n in _FILES if (f := root / n).exists())]


def cross_build(root: Path, out: Path, zig_cache: Path) -> None:
    """Build the native library and the guests of `root` for arm64. Raises LabSetupError."""
    toolchain = root / "native" / "toolchain.py"
    caches = {name: os.environ.get(name, str(zig_cache)) for name in
              ("ZIG_GLOBAL_CACHE_DIR", "ZIG_LOCAL_CACHE_DIR")}  # fmt: skip
    output_of(
        [sys.executable, str(toolchain), "--target", "aarch64", "--out", str(out)],
        "build the native library for arm64",
        environment=caches,
    )


def write(root: Path, files: Sequence[Path], built: Path, target: Path, *, python: str) -> None:
    """Write the archive `target` from `files` of the checkout and the build results in `built`."""
    with target.open("wb") as out:
        writer = CpioWriter(out)
        for file in files:
            _add(writer, file, f"{PLACE}/{file.relative_to(root)}", python)
        for file in _built_files(built):
            path = f"{_LIBRARY_FOLDER}/{file.relative_to(built)}"
            writer.add_file(path, file.read_bytes(), permissions=0o755)
        for name, entry_point in _scripts(root).items():
            writer.add_file(f"{SCRIPTS}/{name}", script(entry_point).encode(), permissions=0o755)
        writer.close()


def _built_files(built: Path) -> list[Path]:
    """Return the library, the guests and the programs for Linux; not what records their making."""
    files = [p for p in built.iterdir() if p.suffix in (".so", ".elf", ".bin")]
    return sorted([*files, *(each for name in _PROGRAMS for each in (built / name).glob("*"))])


def _add(writer: CpioWriter, file: Path, path: str, python: str) -> None:
    status = file.stat()
    data, mtime_s = file.read_bytes(), int(status.st_mtime)
    # pytest compiles test modules itself, to rewrite their assertions.
    if file.suffix == ".py" and not file.name.startswith(_TEST_PREFIX):
        add_python(writer, path, data, mtime_s=mtime_s, python=python)
    else:
        writer.add_file(path, data, permissions=status.st_mode, mtime_s=mtime_s)


def _scripts(root: Path) -> dict[str, str]:
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    scripts: dict[str, str] = project.get("scripts", {})
    return scripts


def _files_below(root: Path, folders: Sequence[str]) -> list[Path]:
    return sorted(
        file
        for folder in folders
        for file in (root / folder).rglob("*")
        if file.is_file() and _NOT_TAKEN.isdisjoint(file.parts) and file.suffix != ".pyc"
    )
