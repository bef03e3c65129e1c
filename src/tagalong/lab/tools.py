"""Runs tools of the host (apt, dpkg-deb, pip, zig); their failures carry their messages."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tagalong.errors import LabSetupError

_SHOWN_LINES = 8

# Executes another program, which the kernel kills when this process ends for any reason
# (PR_SET_PDEATHSIG, SIGKILL). A preexec_fn would do the same and is unsafe with threads.
_LAUNCHER = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)
if os.getppid() == int(sys.argv[1]):
    os.execvp(sys.argv[2], sys.argv[2:])
"""


def ending_with_us(command: Sequence[str]) -> list[str]:
    """Return a command that runs `command` and is killed when the thread that starts it ends."""
    return [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), *command]


def require(tool: str, purpose: str) -> None:
    """Raise LabSetupError unless `tool` is on the PATH."""
    if shutil.which(tool) is None:
        raise LabSetupError(
            f"cannot {purpose}: {tool} is not on the PATH; on a host without apt, give your own "
            "--qemu, --kernel and --rootfs"
        )


def output_of(
    command: Sequence[str],
    doing: str,
    *,
    environment: Mapping[str, str] | None = None,
    descriptors: Sequence[int] = (),
) -> str:
    """Run `command` and return its standard output; it inherits `descriptors`.

    Raises LabSetupError if it fails.
    """
    with complaints_of_a_tool() as complaints:
        try:
            run = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=complaints,
                env=_environment(environment), check=False, encoding="utf-8", errors="replace",
                pass_fds=descriptors,
            )  # fmt: skip
        except OSError as error:
            raise LabSetupError(f"cannot {doing}: cannot start {command[0]}") from error
        check(run.returncode, command, doing, complaints)
    return run.stdout


def follow(
    command: Sequence[str],
    doing: str,
    on_line: Callable[[str], None],
    *,
    environment: Mapping[str, str] | None = None,
    status: Callable[[int], Sequence[str]] | None = None,
) -> None:
    """Run `command` and call `on_line` with each line it prints. Raises LabSetupError.

    With `status`, the lines come from a descriptor of their own; `status(descriptor)` returns
    the arguments that make the command write there.
    """
    read_end, write_end = os.pipe()
    with complaints_of_a_tool() as complaints, os.fdopen(read_end, errors="replace") as lines:
        try:
            child = subprocess.Popen(
                ending_with_us([*command, *(status(write_end) if status else ())]),
                stdin=subprocess.DEVNULL, stdout=complaints if status else write_end,
                stderr=complaints, env=_environment(environment), pass_fds=(write_end,),
            )  # fmt: skip
        finally:
            os.close(write_end)
        try:
            for line in lines:
                on_line(line.rstrip("\n"))
            child.wait()
        finally:
            # Has an effect only if on_line raised or a signal came: no download continues unseen.
            child.kill()
            child.wait()
        check(child.returncode, command, doing, complaints)


@contextmanager
def complaints_of_a_tool() -> Iterator[IO[bytes]]:
    """Yield a file for a tool's standard error, which `check` reads."""
    with tempfile.TemporaryFile() as complaints:
        yield complaints


def _environment(changes: Mapping[str, str] | None) -> dict[str, str]:
    # Messages of apt and pip are parsed and shown, so they must be in one language.
    return {**os.environ, "LC_ALL": "C.UTF-8", **(changes or {})}


def check(status: int, command: Sequence[str], doing: str, complaints: IO[bytes]) -> None:
    """Raise LabSetupError with the tool's own message if `status` is not 0."""
    if status == 0:
        return
    complaints.seek(0)
    said = complaints.read().decode(errors="replace").strip().splitlines()[-_SHOWN_LINES:]
    error = LabSetupError(f"cannot {doing}: {Path(command[0]).name} ended with status {status}")
    error.add_note("\n".join(said) or "it printed no message")
    raise error
