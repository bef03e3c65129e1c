"""Forks processes that run the command `tagalong`, for tests that need thousands of them.

    python -m tests.support.cli_fork SOCKET

Per connection to SOCKET it reads a line of JSON, {"arguments": [...], "out": PATH, "err": PATH},
forks a process that runs the command with its output in those files, and answers with a line
{"pid": N}; when that process has ended, with a line {"status": N}, negative for a signal. The
forking process has every module loaded: a fork takes milliseconds, a start of Python half a
second. The forked process is what `tagalong` is otherwise: its own pid, its own main thread, its
own signal handlers.
"""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import tagalong.cli.run
import tagalong.core.writer
import tagalong.migrate
import tagalong.snapshot
import tagalong.vmm.launch  # noqa: F401 (loaded before the fork)
from tagalong.cli import app

_ROOT = Path(__file__).parents[2]


class ForkedCommand:
    """One `tagalong ARGUMENTS` with its output in `folder`/`name`.out and .err."""

    def __init__(self, server: str, folder: Path, name: str, *arguments: str) -> None:
        self._out, self._err = folder / f"{name}.out", folder / f"{name}.err"
        wish = {"arguments": arguments, "out": str(self._out), "err": str(self._err)}
        self._status: int | None = None
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(server)
        self._lines = self._socket.makefile("rb")
        self._socket.sendall(json.dumps(wish).encode() + b"\n")
        self.pid = int(json.loads(self._lines.readline())["pid"])

    @property
    def console(self) -> str:
        """Return what the guest has printed."""
        return self._out.read_text("ascii", "replace")

    @property
    def messages(self) -> str:
        """Return what the process has printed for people."""
        return self._err.read_text()

    def wait(self, timeout_s: float) -> int | None:
        """Return the exit status, or None if the process does not end within `timeout_s`."""
        if self._status is None and select.select([self._socket], [], [], timeout_s)[0]:
            self._status = int(json.loads(self._lines.readline())["status"])
        return self._status

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; do nothing if the process has ended."""
        if self.wait(0) is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def close(self) -> None:
        """Kill the process if it still runs."""
        self.signal(signal.SIGKILL)
        self.wait(60)
        self._lines.close()
        self._socket.close()


@contextmanager
def cli_server() -> Iterator[str]:
    """Run the forking process; yield the path of its socket."""
    with tempfile.TemporaryDirectory(prefix="ta-") as folder:
        path = f"{folder}/fork"
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.cli_fork", path],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            cwd=_ROOT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(_ROOT), *sys.path])},
        )
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            yield path
        finally:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


def _attend(connection: socket.socket) -> None:
    """Run one command in a process of its own and report its pid and status."""
    wish = json.loads(connection.makefile("rb").readline())
    pid = os.fork()
    if not pid:
        connection.close()
        os._exit(_run(wish))
    connection.sendall(json.dumps({"pid": pid}).encode() + b"\n")
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    with suppress(OSError):
        connection.sendall(json.dumps({"status": code}).encode() + b"\n")


def _run(wish: dict[str, object]) -> int:
    for number, name in ((1, "out"), (2, "err")):
        file = os.open(str(wish[name]), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(file, number)
        os.close(file)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    arguments = wish["arguments"]
    assert isinstance(arguments, list)
    sys.argv = ["tagalong", *map(str, arguments)]
    try:
        app.main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    except BaseException:  # noqa: BLE001 (as Python would: a traceback and status 1)
        traceback.print_exc()
        return 1
    return 0


def main(path: str) -> None:
    """Fork per connection, until the parent kills this process."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen(64)
    print("ready", flush=True)
    while True:
        connection, _ = server.accept()
        if os.fork():
            connection.close()
            continue
        server.close()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        try:
            _attend(connection)
        except BaseException:  # noqa: BLE001 (a fork must not continue in the parent's loop)
            traceback.print_exc()
        os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1])
