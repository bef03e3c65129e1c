"""The commands that a page of the documentation shows, and a way to run them as a reader would.

A fence marked `sh` holds commands, one per line; in one marked `console` the lines after `$ ` are
commands, and the others what they print. A comment in the line before a fence may say

    <!-- commands: slow -->             run in the long form alone
    <!-- commands: not run: REASON -->  for instance because it needs two hosts

In a line, `# exit status N` after a command says with which status it ends, and `&` at its end that
it runs beside those that follow, as in a terminal of its own.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.cli_fork import GUESTS_NICE

ROOT = Path(__file__).parents[2]
PORT_SHOWN = "4444"
TIMEOUT_S = 240.0

_FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_MARK = re.compile(r"<!-- commands: (slow|not run: .+?) -->\n\Z")
_STATUS = re.compile(r"\s+# exit status (\d+).*$")
_COMMENT = re.compile(r"\s+#\s.*$")
_NUMBER = re.compile(r"0x[0-9a-f]+|[\d,]*\d(\.\d+)?")
_FOLDER = re.compile(r"/tmp/[^\s:]*/")
_BRINGS_A_GUEST = re.compile(r'--guest|--incoming "?(file|exec):')
_CONTROL = re.compile(r"--control (\S+)")


@dataclass(frozen=True)
class Command:
    """One command of a page.

    `status`: what it ends with. `mark`: as above, "" without one. `shown`: what the page shows of
    its output; `...` stands for any lines.
    """

    page: str
    line: int
    text: str
    status: int = 0
    mark: str = ""
    shown: tuple[str, ...] = ()

    @property
    def is_background(self) -> bool:
        """Return whether it runs beside those that follow."""
        return self.text.endswith("&")

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {self.text}"


def commands_of(page: Path) -> list[Command]:
    """Return all commands of a page, in order."""
    text = page.read_text(encoding="utf-8")
    name = str(page.relative_to(ROOT))
    found = []
    for fence in _FENCE.finditer(text):
        mark = _MARK.search(text[: fence.start()])
        first = text.count("\n", 0, fence.start()) + 2
        for number, line, shown in _lines(fence[1], fence[2]):
            found.append(_command(name, first + number, line, mark[1] if mark else "", shown))
    return found


def unmarked_commands(page: Path) -> list[str]:
    """Return lines of fences without a kind that look like commands of ours."""
    return [
        line
        for fence in _FENCE.finditer(page.read_text(encoding="utf-8"))
        if not fence[1]
        for line in fence[2].splitlines()
        if re.match(r"(\$ )?tagalong [a-z]", line)
    ]


def _lines(kind: str, body: str) -> Iterator[tuple[int, str, tuple[str, ...]]]:
    lines = body.replace("\\\n", " ").splitlines()
    prompts = [number for number, line in enumerate(lines) if line.startswith("$ ")]
    for number, line in enumerate(lines):
        if kind == "sh" and line.strip() and not line.startswith("#"):
            yield number, line, ()
        elif kind == "console" and number in prompts:
            end = next((n for n in prompts if n > number), len(lines))
            yield number, line.removeprefix("$ "), tuple(lines[number + 1 : end])


def _command(page: str, line: int, text: str, mark: str, shown: tuple[str, ...]) -> Command:
    status = _STATUS.search(text)
    plain = _COMMENT.sub("", text).strip()
    return Command(page, line, plain, int(status[1]) if status else 0, mark, shown)


def shape(line: str) -> str:
    """Return a line with each number and each path of a temporary folder as one sign."""
    return " ".join(_NUMBER.sub("#", _FOLDER.sub("/tmp/", line)).split())


def missing_lines(command: Command, printed: str) -> list[str]:
    """Return what a page shows of a command's output and the command did not print.

    Numbers may differ: they are those of one run.
    """
    there = iter([shape(line) for line in printed.splitlines()])
    return [
        line
        for line in command.shown
        if line.strip() not in {"", "..."} and shape(line) not in there
    ]


class Reader:
    """Runs commands in a folder, as somebody who follows a page does."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = str(_free_port())
        self._beside: list[subprocess.Popen[bytes]] = []
        paths = [str(Path(sys.executable).parent), os.environ["PATH"]]
        self._environment = {**os.environ, "PATH": os.pathsep.join(paths), "COLUMNS": "80"}

    def run(self, command: Command) -> None:
        """Run a command; return when it has ended, or one in the background has started.

        Raises AssertionError if its status or its output are not what the page says.
        """
        text = command.text.replace(PORT_SHOWN, self._port)
        if command.is_background:
            self._start(text.removesuffix("&").strip(), command)
            return
        ran = subprocess.run(
            ["bash", "-c", text], cwd=self._folder, env=self._environment, timeout=TIMEOUT_S,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip
        printed = ran.stderr + ran.stdout
        assert ran.returncode == command.status, f"{command}\n{printed}"
        missing = missing_lines(command, printed)
        assert not missing, f"{command}\ndoes not print {missing}\nbut\n{printed}"

    def _start(self, text: str, command: Command) -> None:
        log = self._folder / f"{len(self._beside)}.console"
        with log.open("wb") as output:
            process = subprocess.Popen(
                ["nice", "-n", str(GUESTS_NICE), "bash", "-c", f"exec {text}"],
                cwd=self._folder, env=self._environment,
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
        self._beside.append(process)
        control = _CONTROL.search(text)
        end = time.monotonic() + TIMEOUT_S
        # A person starts the next command when the guest has said something. One that is loaded
        # from a file or a command comes without another command.
        has_guest = bool(_BRINGS_A_GUEST.search(text)) and "--paused" not in text
        while not (control is None or _answers(self._folder / control[1])) or (
            has_guest and not self._spoke(text, log)
        ):
            assert process.poll() is None, f"{command}\n{log.read_text()}"
            assert time.monotonic() < end, f"{command} does not start\n{log.read_text()}"
            time.sleep(0.02)

    def _spoke(self, text: str, log: Path) -> bool:
        redirected = re.search(r"> (\S+)$", text)
        shown = self._folder / redirected[1] if redirected else log
        lines = shown.read_text(errors="replace").splitlines() if shown.exists() else []
        return any(not line.startswith("tagalong: ") for line in lines)

    def close(self) -> None:
        """End what still runs."""
        for process in self._beside:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
        for process in self._beside:
            process.wait(TIMEOUT_S)


@contextmanager
def reader(folder: Path) -> Iterator[Reader]:
    """Yield a reader who works in `folder`, where docs/ and tests/ are those of this tree."""
    for name in ("docs", "tests"):
        (folder / name).symlink_to(ROOT / name)
    someone = Reader(folder)
    try:
        yield someone
    finally:
        someone.close()


def _answers(path: Path) -> bool:
    """Return whether a VM greets: its socket is there before what it was asked for has begun."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(TIMEOUT_S)
        try:
            probe.connect(os.path.relpath(path) if len(str(path)) > 100 else str(path))
            return bool(probe.recv(1))
        except OSError:
            return False


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


def has(program: str) -> bool:
    """Return whether a program can be run."""
    return shutil.which(program) is not None
