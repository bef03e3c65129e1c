"""Finds qemu-aarch64 (user mode) for the oracle tests, or fetches it without root.

    python -m tests.support.fetch_qemu

`make test` runs this before the tests. The search order is: the environment variable
TAGALONG_QEMU_AARCH64, qemu-aarch64 or qemu-aarch64-static on PATH, the one fetched before. If
none of them is new enough, the lab's private apt downloads Debian's package, and its one
executable goes into a cache beside the lab's (~/.cache/tagalong/oracle).

Without QEMU the oracle tests are skipped and name the reason; this command prints it and exits
with 0.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tagalong.errors import LabError
from tagalong.lab.apt import Apt, host_architecture, system_mirror
from tagalong.lab.cache import Cache, Record, default_folder
from tagalong.lab.deb import files_of
from tagalong.lab.observer import SilentObserver
from tagalong.lab.packages import STABLE

MINIMUM = (7, 2)
VARIABLE = "TAGALONG_QEMU_AARCH64"

_NAMES = ("qemu-aarch64", "qemu-aarch64-static")
# The statically linked one: it runs on any distribution.
_PACKAGE = "qemu-user-static"
_EXECUTABLE = "qemu-aarch64-static"
_MADE_FROM: Record = {"form": 1, "package": _PACKAGE, "suite": STABLE}
_VERSION_TIMEOUT_S = 120


class QemuMissingError(Exception):
    """No usable qemu-aarch64 was found; the message lists what was tried."""


def find_qemu() -> Path:
    """Return the oracle's executable. Raises QemuMissingError; downloads nothing."""
    named = os.environ.get(VARIABLE)
    if named:
        complaint = _complaint(Path(named))
        if complaint:
            raise QemuMissingError(f"{VARIABLE}={named}: {complaint}")
        return Path(named)
    complaints = []
    for path in _candidates():
        complaint = _complaint(path)
        if not complaint:
            return path
        complaints.append(f"{path}: {complaint}")
    raise QemuMissingError(
        "; ".join(complaints) or f"none of {', '.join(_NAMES)} on PATH, none in {_folder()}"
    )


def _candidates() -> list[Path]:
    found = [Path(path) for name in _NAMES if (path := shutil.which(name))]
    if _folder().exists():
        piece = Cache(_folder()).find("qemu", _MADE_FROM)
        found += [piece.folder / _EXECUTABLE] if piece else []
    return found


def _folder() -> Path:
    return default_folder().parent / "oracle"


def _complaint(path: Path) -> str:
    """Return why the executable at `path` cannot be used, or an empty text."""
    try:
        done = subprocess.run(
            [str(path), "--version"],
            capture_output=True, text=True, timeout=_VERSION_TIMEOUT_S, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        return f"does not run: {error}"
    found = re.search(r"version (\d+)\.(\d+)", done.stdout)
    if not found:
        return f"--version prints {done.stdout.partition(chr(10))[0]!r}"
    version = (int(found[1]), int(found[2]))
    if version < MINIMUM:
        return f"version {version[0]}.{version[1]} is older than {MINIMUM[0]}.{MINIMUM[1]}"
    return ""


def fetch() -> Path:
    """Download Debian's package and return its executable. Raises QemuMissingError."""
    try:
        piece = Cache(_folder()).piece("qemu", _MADE_FROM, _make)
    except LabError as error:
        notes = " ".join(getattr(error, "__notes__", ()))
        raise QemuMissingError(f"{error}: {notes}" if notes else str(error)) from error
    executable = piece.folder / _EXECUTABLE
    complaint = _complaint(executable)
    if complaint:
        raise QemuMissingError(f"{executable}: {complaint}")
    return executable


def _make(folder: Path) -> Record:
    """Unpack the executable alone: the whole package has some 200 MB of other machines."""
    observer = SilentObserver()
    downloads = Cache(_folder()).folder("apt")
    apt = Apt(downloads, architecture=host_architecture(), mirror=system_mirror())
    apt.update((STABLE,), observer)
    for deb in apt.download_only((_PACKAGE,), STABLE, observer):
        for file in files_of(deb):
            if Path(file.path).name == _EXECUTABLE:
                (folder / _EXECUTABLE).write_bytes(file.read())
                (folder / _EXECUTABLE).chmod(0o755)
    apt.clean()
    return {}


def main() -> None:
    """Find or fetch, and print on stderr what the oracle tests will use."""
    try:
        say(f"oracle: {find_qemu()}")
        return
    except QemuMissingError as error:
        say(f"No qemu-aarch64 of version {MINIMUM[0]}.{MINIMUM[1]} or newer here ({error}).")
    if os.environ.get(VARIABLE):
        say("The oracle tests will be skipped.")
        return
    say("Fetching QEMU's user mode for the oracle tests (once, 60 MB) ...")
    try:
        say(f"oracle: {fetch()}")
    except QemuMissingError as error:
        say(f"{error}\nThe oracle tests will be skipped. Name your own with {VARIABLE}=PATH.")


def say(message: str) -> None:
    sys.stderr.write(f"{message}\n")


if __name__ == "__main__":
    main()
