"""Probes whether a QEMU can run beside tagalong here: by running it."""

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from contextlib import ExitStack, closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from tagalong.beside.command import environment, library_path
from tagalong.beside.guest import require_usable
from tagalong.beside.link import LibraryLink
from tagalong.beside.vmm import socket_for
from tagalong.errors import HostError
from tagalong.studies.probe.findings import CannotTryError, ProbeFinding, attempt

DEFAULT_VMM: Final = "qemu-system-aarch64"
_TIMEOUT_S: Final = 60.0
_PAUSE_FIRST: Final = "pause-before-switchover"

# Whether the library was loaded is in the maps of the process that was started under it.
_LOOK: Final = "print(open('/proc/self/maps').read())"

_WITHOUT_GUEST: Final = ("-S", "-nodefaults", "-no-user-config", "-display", "none")
_QUESTIONS: Final = ("qmp_capabilities", "query-migrate-capabilities", "quit")


def beside_findings(vmm: str = DEFAULT_VMM) -> list[ProbeFinding]:
    """Return the findings on `tagalong beside`; `vmm` is a name on the PATH, or a path."""
    return [
        attempt("beside_library", _library),
        attempt("beside_qemu", lambda: _qemu(vmm)),
        attempt("beside_guest", lambda: _guest(vmm)),
    ]


def _require_arm64() -> None:
    if platform.machine() != "aarch64":
        raise CannotTryError("not an arm64 host")


def _program(vmm: str) -> str:
    program = shutil.which(vmm)
    if program is None:
        raise CannotTryError(f"{vmm} is not on the PATH; --vmm names another one")
    return program


def _library() -> str:
    path = library_path()
    _require_arm64()
    maps = _output([sys.executable, "-c", _LOOK], variables={"LD_PRELOAD": str(path)})
    if path.name not in maps:
        raise OSError(f"the loader does not load {path}: its C library needs glibc 2.34 or newer")
    return "loads into processes here"


def _qemu(vmm: str) -> str:
    """Ask a QEMU without a machine what its migration can do."""
    program = _program(vmm)
    found = re.search(r"version (\d+(?:\.\d+)+)", _output([program, "--version"]))
    if found is None:
        raise OSError(f"{program} does not say its version")
    questions = "".join(json.dumps({"execute": each}) + "\n" for each in _QUESTIONS)
    answers = _output(
        [program, "-M", "none", *_WITHOUT_GUEST, "-qmp", "stdio"], questions=questions
    )
    if _PAUSE_FIRST not in answers:
        raise OSError(
            f"{program}, version {found[1]}, cannot wait for its last tags ({_PAUSE_FIRST}): QEMU "
            "4.0 and newer can"
        )
    return f"{program}, version {found[1]}, waits for its last tags"


def _guest(vmm: str) -> str:
    """Let a QEMU make a VM under the library, which never runs, and look whether it has tags."""
    program = _program(vmm)
    _require_arm64()
    with ExitStack() as stack:
        folder = stack.enter_context(TemporaryDirectory(prefix="tagalong-probe-"))
        path = Path(folder) / "kvm"
        listener = stack.enter_context(socket_for(path, "the library's socket"))
        number = listener.fileno()
        process = subprocess.Popen(
            [program, "-M", "virt,gic-version=host", "-accel", "kvm", "-cpu", "host",
             "-m", "64M", *_WITHOUT_GUEST],
            env=environment(os.environ, library_path(), number, holds=True),
            pass_fds=(number,), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        stack.callback(process.communicate)
        stack.callback(process.kill)
        listener.close()  # so that the VMM's end is the connection's end
        return _look_at(path, process)


def _look_at(path: Path, process: "subprocess.Popen[str]") -> str:
    try:
        with closing(LibraryLink(path)) as link:
            require_usable(link.state())
    except HostError as error:
        process.kill()
        said = (process.stderr.read() if process.stderr is not None else "").strip()
        raise OSError(said or str(error)) from error
    return "a VM of this QEMU has tags"


def _output(
    command: list[str], *, questions: str | None = None, variables: dict[str, str] | None = None
) -> str:
    try:
        run = subprocess.run(
            command, input=questions, capture_output=True, text=True, timeout=_TIMEOUT_S,
            check=False, env={**os.environ, **(variables or {})},
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise OSError(f"{command[0]} did not answer") from error
    return run.stdout
