"""The project's run-time dependencies and the test tools, as wheels for arm64.

pip downloads them from its configured index, checks their hashes and applies the checkout's
constraints, so the lab runs the versions that the project is tested with.
"""

import calendar
import configparser
import re
import sys
import tomllib
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tagalong.lab.bytecode import add_python
from tagalong.lab.cpio import CpioWriter
from tagalong.lab.elf import stripped
from tagalong.lab.observer import Observer
from tagalong.lab.tools import follow

ARCHIVE = "packages.cpio"

# Their folders in the lab, on PYTHONPATH and PATH.
PACKAGES = "opt/tagalong/packages"
SCRIPTS = "opt/tagalong/bin"

# From the extra "dev", only what runs tests. Linters and compilers stay on the host.
_TEST_TOOLS = ("pytest", "pytest-timeout", "hypothesis")

_NEWEST_GLIBC_MINOR = 36
_PLATFORMS = (
    *(f"manylinux_2_{minor}_aarch64" for minor in range(17, _NEWEST_GLIBC_MINOR + 1)),
    "manylinux2014_aarch64",
)

# The packages' own tests, and files for compilers and type checkers.
_LEFT_OUT = re.compile(r"(.*/)?tests/.*|.*\.(pyi|pxd|h|hpp|a)")

_SCRIPT = """#!/usr/bin/env python3
import sys
from {module} import {name}
sys.exit({name}())
"""


@dataclass(frozen=True)
class WheelRequirements:
    """Requirements for pip, and a constraints file with the versions to use."""

    requirements: tuple[str, ...]
    constraints: Path | None

    @classmethod
    def of_checkout(cls, root: Path) -> "WheelRequirements":
        """Read pyproject.toml and constraints.txt of the checkout at `root`."""
        project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
        constraints = root / "constraints.txt"
        return cls(
            (*project["dependencies"], *_TEST_TOOLS),
            constraints if constraints.exists() else None,
        )

    def made_from(self) -> dict[str, object]:
        """Return the inputs that determine the wheels."""
        text = self.constraints.read_text() if self.constraints else ""
        return {"requirements": list(self.requirements), "constraints": text}


def download(
    requirements: WheelRequirements, *, python: str, folder: Path, cache: Path, observer: Observer
) -> list[Path]:
    """Download wheels for arm64 and Python `python` ("3.11") into `folder`.

    Finished files stay in `cache` if the download is interrupted. Raises LabSetupError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    constrain = ["--constraint", str(requirements.constraints)] if requirements.constraints else []
    tag = f"cp{python.replace('.', '')}"

    def on_line(line: str) -> None:
        found = re.match(r"\s*(?:Downloading|Using cached) (\S+?)(?:-\d\S*)? \(", line)
        if found:
            observer.progress(None, found[1])

    follow(
        [
            sys.executable, "-m", "pip", "download", "--no-input", "--disable-pip-version-check",
            "--progress-bar=off", "--only-binary=:all:", "--implementation=cp",
            f"--python-version={python}", *(f"--abi={abi}" for abi in (tag, "abi3", "none")),
            *(f"--platform={platform}" for platform in _PLATFORMS),
            f"--cache-dir={cache}", f"--dest={folder}", *constrain, *requirements.requirements,
        ],
        "download the Python packages for arm64", on_line,
        environment={"PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    return sorted(folder.glob("*.whl"))


def write(wheels: Sequence[Path], target: Path, *, python: str) -> list[str]:
    """Unpack `wheels` into the archive `target`; return their names and versions."""
    with target.open("wb") as out:
        writer = CpioWriter(out)
        for wheel in wheels:
            with zipfile.ZipFile(wheel) as archive:
                _add(writer, archive, python)
        writer.close()
    return [" ".join(wheel.name.split("-")[:2]) for wheel in wheels]


def script(entry_point: str) -> str:
    """Return the script of an entry point such as "pytest:console_main"."""
    module, _, name = entry_point.partition(":")
    return _SCRIPT.format(module=module, name=name)


def _add(writer: CpioWriter, archive: zipfile.ZipFile, python: str) -> None:
    for info in archive.infolist():
        path = _place(info.filename)
        if info.is_dir() or path is None:
            continue
        data = archive.read(info)
        mtime_s = calendar.timegm((*info.date_time, 0, 0, 0))
        if path.endswith(".py"):
            add_python(writer, path, data, mtime_s=mtime_s, python=python)
        else:
            writer.add_file(path, stripped(data), permissions=0o755, mtime_s=mtime_s)
        if path.endswith(".dist-info/entry_points.txt"):
            for name, entry_point in _commands(data.decode()):
                text = script(entry_point).encode()
                writer.add_file(f"{SCRIPTS}/{name}", text, permissions=0o755)


def _place(name: str) -> str | None:
    """Return the path of a wheel's file in the lab (PEP 427), or None to leave it out."""
    if _LEFT_OUT.fullmatch(name):
        return None
    first, *rest = PurePosixPath(name).parts
    if first.endswith(".data"):
        if rest[0] not in ("purelib", "platlib"):
            return None
        name = str(PurePosixPath(*rest[1:]))
    return f"{PACKAGES}/{name}"


def _commands(text: str) -> Iterator[tuple[str, str]]:
    parser = configparser.ConfigParser(delimiters=("=",))
    parser.read_string(text)
    if parser.has_section("console_scripts"):
        for name, value in parser.items("console_scripts"):
            yield name, value.partition("[")[0].strip()
