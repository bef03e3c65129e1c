"""Finds gdb, lldb, readelf, dtc, passt and qemu-img for tests, or fetches them.

    python -m tests.support.fetch_debuggers

`make test` runs this before the tests. The search order is: the environment variables
TAGALONG_GDB, TAGALONG_LLDB, TAGALONG_READELF, TAGALONG_DTC, TAGALONG_PASST and TAGALONG_QEMU_IMG;
gdb-multiarch, lldb-19, readelf, dtc, passt and qemu-img on PATH; the ones fetched before. If one is
missing, Debian's packages are downloaded with the lab's private apt and without root, with all that
they depend on, the C library included, so that they run on any distribution; their cache is beside
the lab's (~/.cache/tagalong/debuggers).

Without them the tests are skipped and say so; this command says why, and exits with 0.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tagalong.errors import LabError
from tagalong.lab.apt import Apt, host_architecture, system_mirror
from tagalong.lab.cache import Cache, CachedPiece, Record, default_folder
from tagalong.lab.deb import unpack
from tagalong.lab.observer import SilentObserver
from tagalong.lab.packages import STABLE

_TIMEOUT_S = 60
_FORM = 1


class DebuggerMissingError(Exception):
    """There is no usable debugger; the message says what was tried."""


@dataclass(frozen=True)
class Debugger:
    """Which tool, what names one, what it is in Debian, and where in the unpacked packages."""

    name: str
    variable: str
    program: str
    packages: tuple[str, ...]
    inside: str

    def find(self) -> list[str]:
        """Return the command that starts it. Raises DebuggerMissingError; downloads nothing."""
        named = os.environ.get(self.variable)
        if named:
            return self._checked([named])
        found = shutil.which(self.program)
        if found:
            return self._checked([found])
        piece = _cache().find(self.name, self._made_from())
        if piece is None:
            raise DebuggerMissingError(f"no {self.program} on PATH, none fetched")
        return self._checked(self._command(piece))

    def fetch(self) -> list[str]:
        """Download it. Raises DebuggerMissingError."""
        try:
            return self._checked(
                self._command(_cache().piece(self.name, self._made_from(), self._make))
            )
        except LabError as error:
            raise DebuggerMissingError(str(error)) from error

    def _made_from(self) -> Record:
        return {"form": _FORM, "packages": list(self.packages), "suite": STABLE}

    def _make(self, folder: Path) -> Record:
        observer = SilentObserver()
        apt = Apt(_cache().folder("apt"), architecture=host_architecture(), mirror=system_mirror())
        apt.update((STABLE,), observer)
        for deb in apt.download(self.packages, STABLE, observer):
            unpack(deb, folder)
        apt.clean()
        return {}

    def _command(self, piece: CachedPiece) -> list[str]:
        folder = piece.folder
        loaders = sorted(folder.glob("lib*/ld-linux-*.so.*"))
        libraries = (*folder.glob("lib/*-linux-gnu"), *folder.glob("usr/lib/*-linux-gnu"))
        command = [
            # Their Python is the one beside them.
            "env", "-u", "LD_LIBRARY_PATH", "-u", "LD_PRELOAD", f"PYTHONHOME={folder}/usr",
            str(loaders[0]), "--library-path", ":".join(map(str, sorted(libraries))),
        ]  # fmt: skip
        data = f"--data-directory={folder}/usr/share/gdb"
        return [*command, str(folder / self.inside), *([data] if self.name == "gdb" else [])]

    def _checked(self, command: list[str]) -> list[str]:
        said = run([*command, "--version"])
        if self.name not in said.lower():
            raise DebuggerMissingError(f"{' '.join(command)} --version says {said[:200]!r}")
        return command


GDB = Debugger("gdb", "TAGALONG_GDB", "gdb-multiarch", ("gdb-multiarch",), "usr/bin/gdb-multiarch")
LLDB = Debugger(
    "lldb", "TAGALONG_LLDB", "lldb-19", ("lldb-19", "python3-lldb-19"), "usr/lib/llvm-19/bin/lldb"
)
READELF = Debugger("readelf", "TAGALONG_READELF", "readelf", ("binutils",), "usr/bin/readelf")
DTC = Debugger("dtc", "TAGALONG_DTC", "dtc", ("device-tree-compiler",), "usr/bin/dtc")
PASST = Debugger("passt", "TAGALONG_PASST", "passt", ("passt",), "usr/bin/passt")
QEMU_IMG = Debugger(
    "qemu-img", "TAGALONG_QEMU_IMG", "qemu-img", ("qemu-utils",), "usr/bin/qemu-img"
)


def _cache() -> Cache:
    return Cache(default_folder().parent / "debuggers")


def run(command: Sequence[str], folder: Path | None = None) -> str:
    """Return all that a command says. Raises DebuggerMissingError if it cannot be run."""
    try:
        return subprocess.run(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, timeout=_TIMEOUT_S, check=False,
        ).stdout  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        raise DebuggerMissingError(f"{command[0]} does not run: {error}") from error


def main() -> None:
    """Find or fetch all of them, and say on stderr what the tests will use."""
    for debugger in (GDB, LLDB, READELF, DTC, PASST, QEMU_IMG):
        try:
            say(f"{debugger.name}: {debugger.find()[-1]}")
            continue
        except DebuggerMissingError as error:
            say(f"{debugger.name}: {error}")
        if os.environ.get(debugger.variable):
            continue
        say(f"Fetching {debugger.name} (once, 10 to 100 MB) ...")
        try:
            say(f"{debugger.name}: {debugger.fetch()[-1]}")
        except DebuggerMissingError as error:
            say(str(error))
            say(f"Tests that need it will be skipped. Name your own with {debugger.variable}=PATH.")


def say(message: str) -> None:
    sys.stderr.write(f"{message}\n")


if __name__ == "__main__":
    main()
