"""Forks processes that run the command `tagalong`: tests need thousands of them.

    python -m tests.support.cli_fork SOCKET

Per connection to SOCKET it reads a line of JSON, {"arguments": [...], "out": PATH, "err": PATH,
"folder": PATH, "environment": {...}}, forks a process that runs the command there with its output
in those files, and answers with a line {"pid": N}; when that process has ended, with a line
{"status": N}, negative for a signal. The forking process has every module loaded: a fork takes
milliseconds, a start of Python half a second, and in the emulated host five. The forked process is
what `tagalong` is otherwise: its own pid, its own main thread, its own signal handlers, no other
descriptors, and Python's own end. It ends when its standard input does.

tests/docs and some of tests/demo start the command itself.
"""

import atexit
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import tagalong.cli.migrate
import tagalong.cli.run
import tagalong.core.writer
import tagalong.kvm.machine
import tagalong.migrate.destination
import tagalong.migrate.source
import tagalong.snapshot.restorer
import tagalong.snapshot.saver
import tagalong.soft.machine
import tagalong.vmm.launch  # noqa: F401 (loaded before the fork)
from tagalong.cli import app

_ROOT = Path(__file__).parents[2]
_STANDARD = 3

GUESTS_NICE = 5
"""Guests that only have to be there take what the tests leave of a processor."""


class ForkedCommand:
    """One `tagalong ARGUMENTS`, in `folder`, with its output in `name`.out and .err there.

    `cwd`: where it runs, if not in `folder`. Where subprocess.Popen has a method of the same name,
    it does the same here.
    """

    def __init__(
        self, server: str, folder: Path, name: str, *arguments: str, cwd: Path | None = None
    ) -> None:
        self._out, self._err = folder / f"{name}.out", folder / f"{name}.err"
        for file in (self._out, self._err):
            file.write_bytes(b"")
        wish = {
            "arguments": arguments,
            "out": str(self._out),
            "err": str(self._err),
            "folder": str(cwd or folder),
            "environment": {**os.environ},
        }
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

    def status_within(self, timeout_s: float) -> int | None:
        """Return the exit status, or None if the process does not end within `timeout_s`."""
        if self._status is None and select.select([self._socket], [], [], timeout_s)[0]:
            self._status = int(json.loads(self._lines.readline())["status"])
        return self._status

    def poll(self) -> int | None:
        """Return the exit status, None while the process runs."""
        return self.status_within(0)

    def wait(self, timeout_s: float) -> int:
        """Return the exit status. Raises subprocess.TimeoutExpired."""
        status = self.status_within(timeout_s)
        if status is None:
            raise subprocess.TimeoutExpired("tagalong", timeout_s)
        return status

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal; do nothing if the process has ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill the process if it still runs."""
        self.send_signal(signal.SIGKILL)

    def close(self) -> None:
        """Kill the process if it still runs, and wait for its end."""
        self.kill()
        self.wait(60)
        self._lines.close()
        self._socket.close()


@cache
def shared_server() -> str:
    """Return the socket of a forking process that ends with this one."""
    folder = tempfile.mkdtemp(prefix="ta-")
    path = f"{folder}/fork"
    process = _start(path)

    def end() -> None:
        process.kill()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)

    atexit.register(end)
    return path


@contextmanager
def cli_server() -> Iterator[str]:
    """Run the forking process; yield the path of its socket."""
    with tempfile.TemporaryDirectory(prefix="ta-") as folder:
        path = f"{folder}/fork"
        process = _start(path)
        try:
            yield path
        finally:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    stream.close()


def _start(path: str) -> "subprocess.Popen[bytes]":
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.cli_fork", path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=_ROOT,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(_ROOT), *sys.path]),
            # A thread of a library would be missing in each fork.
            "OPENBLAS_NUM_THREADS": "1",
        },
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return process


Wish = dict[str, object]


def _attend(connection: socket.socket) -> Wish | None:
    """Fork the process that a client wishes for and report its pid and status.

    Returns the wish in the new process, None in this one when that has ended.
    """
    with connection.makefile("rb") as lines:
        wish: Wish = json.loads(lines.readline())
    pid = os.fork()
    if not pid:
        connection.detach()
        return wish
    connection.sendall(json.dumps({"pid": pid}).encode() + b"\n")
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    with suppress(OSError):
        connection.sendall(json.dumps({"status": code}).encode() + b"\n")
    return None


def _become(wish: Wish) -> None:
    """Give this process what the command would have been started with."""
    os.closerange(_STANDARD, os.sysconf("SC_OPEN_MAX"))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(str(wish[name]), os.O_WRONLY | os.O_APPEND), number)
    os.closerange(_STANDARD, _STANDARD + 3)
    environment, arguments = wish["environment"], wish["arguments"]
    assert isinstance(environment, dict)
    assert isinstance(arguments, list)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(str(wish["folder"]))
    sys.argv = ["tagalong", *arguments]
    if arguments[:1] == ["run"]:
        os.nice(GUESTS_NICE)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def _wish_of_a_fork(path: str) -> Wish:
    """Fork per connection, until standard input ends; return in the forks alone."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen(64)
    print("ready", flush=True)
    while True:
        ready, _, _ = select.select([server, sys.stdin], [], [])
        if sys.stdin in ready:
            shutil.rmtree(Path(path).parent, ignore_errors=True)
            sys.exit()
        connection, _ = server.accept()
        if os.fork():
            connection.close()
            continue
        server.detach()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        wish = _attend(connection)
        if wish is not None:
            return wish
        os._exit(0)


if __name__ == "__main__":
    _become(_wish_of_a_fork(sys.argv[1]))
    app.main()
