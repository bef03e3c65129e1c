"""Probes whether a QEMU here can run beside tagalong."""

import os
import platform
import re
import shutil
import subprocess
import sys
from typing import Final

from tagalong.beside.command import library_path
from tagalong.studies.probe.findings import CannotTryError, ProbeFinding, attempt

_PROGRAM: Final = "qemu-system-aarch64"
_TIMEOUT_S: Final = 30.0
_OLDEST: Final = (4, 0)

# Whether the library was loaded is in the maps of the process that was started under it.
_LOOK: Final = "print(open('/proc/self/maps').read())"


def beside_findings() -> list[ProbeFinding]:
    """Return the findings on `tagalong beside`."""
    return [attempt("beside_library", _library), attempt("beside_qemu", _qemu)]


def _library() -> str:
    path = library_path()
    if platform.machine() != "aarch64":
        raise CannotTryError("not an arm64 host")
    maps = _output([sys.executable, "-c", _LOOK], LD_PRELOAD=str(path))
    if path.name not in maps:
        raise OSError(f"the loader does not load {path}: its C library needs glibc 2.34 or newer")
    return "loads into processes here"


def _qemu() -> str:
    program = shutil.which(_PROGRAM)
    if program is None:
        raise CannotTryError(f"{_PROGRAM} is not on the PATH")
    found = re.search(r"version (\d+)\.(\d+)[.\d]*", _output([program, "--version"]))
    if found is None:
        raise OSError(f"{program} does not say its version")
    if (int(found[1]), int(found[2])) < _OLDEST:
        raise OSError(
            f"{found[0]} is too old: {_OLDEST[0]}.{_OLDEST[1]} can wait for its last tags"
        )
    return f"{program}, {found[0]}"


def _output(command: list[str], **variables: str) -> str:
    try:
        run = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False,
            env={**os.environ, **variables},
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise OSError(f"{command[0]} did not answer") from error
    return run.stdout
