"""Real `tagalong` processes for end-to-end tests; none outlives its test.

They are forked (`cli_fork`), unless a test starts TAGALONG itself.
"""

import json
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.cli_fork import ForkedCommand, shared_server

TIMEOUT_S = 120.0

TAGALONG = (sys.executable, "-m", "tagalong")


def tagalong(
    *arguments: str, timeout_s: float = TIMEOUT_S, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, in the folder `cwd` if there is one."""
    with tempfile.TemporaryDirectory(prefix="ta-") as folder, closing(
        ForkedCommand(shared_server(), Path(folder), "it", *arguments, cwd=cwd or Path.cwd())
    ) as command:  # fmt: skip
        status = command.wait(timeout_s)
        output = Path(folder, "it.out").read_text()
        return subprocess.CompletedProcess(
            ["tagalong", *arguments], status, output, command.messages
        )


def until(condition: Callable[[], bool], what: str, timeout_s: float = TIMEOUT_S) -> None:
    """Wait for a condition; fail with `what` if it does not come."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s} s for {what}"
        time.sleep(0.01)


class Qmp:
    """A plain synchronous QMP connection that collects the events it receives."""

    def __init__(self, path: Path) -> None:
        self.events: list[Mapping[str, object]] = []
        self._socket = socket.socket(socket.AF_UNIX)
        self._lines = self._socket.makefile("rb")
        try:
            self._socket.settimeout(TIMEOUT_S)
            self._socket.connect(str(path))
            assert "QMP" in self._next()
            self.execute("qmp_capabilities")
        except BaseException:  # a process that ends meanwhile
            self.__exit__(None, None, None)
            raise

    def execute(self, command: str, **arguments: object) -> dict[str, object]:
        """Run a command and return the whole reply."""
        request: dict[str, object] = {"execute": command}
        if arguments:
            request["arguments"] = {k.replace("_", "-"): v for k, v in arguments.items()}
        self._socket.sendall(json.dumps(request).encode())
        return self._answer()

    def get_fd(self, name: str, descriptor: int) -> dict[str, object]:
        """Pass a descriptor to the VM with getfd and return the whole reply."""
        request = {"execute": "getfd", "arguments": {"fdname": name}}
        socket.send_fds(self._socket, [json.dumps(request).encode()], [descriptor])
        return self._answer()

    def _answer(self) -> dict[str, object]:
        while "event" in (message := self._next()):
            self.events.append(message)
        return message

    def state(self) -> str:
        """Return the run state."""
        status = self.execute("query-status")["return"]
        assert isinstance(status, dict)
        return str(status["status"])

    def migration(self) -> dict[str, object]:
        """Return what query-migrate says."""
        info = self.execute("query-migrate")["return"]
        assert isinstance(info, dict)
        return info

    def rest(self) -> list[Mapping[str, object]]:
        """Return the events until the VM closes the connection."""
        self.events += [json.loads(line) for line in self._lines]
        return self.events

    def _next(self) -> dict[str, object]:
        message = json.loads(self._lines.readline())
        assert isinstance(message, dict)
        return message

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._lines.close()
        self._socket.close()


class VmProcess:
    """A `tagalong run` in a folder of its own, with the files that its output goes to.

    `stderr`: a descriptor that its messages go to instead of their file.
    """

    def __init__(
        self, folder: Path, name: str, options: tuple[str, ...], stderr: int | None = None
    ) -> None:
        self.control = folder / f"{name}.sock"
        self._out = folder / f"{name}.out"
        self._err = folder / f"{name}.err"
        command = ("run", "--control", str(self.control), *options)
        self.process: ForkedCommand | subprocess.Popen[bytes]
        if stderr is None:
            self.process = ForkedCommand(shared_server(), folder, name, *command)
            return
        self._err.write_bytes(b"")
        with self._out.open("wb") as out:
            self.process = subprocess.Popen(
                [*TAGALONG, *command],
                stdin=subprocess.DEVNULL, stdout=out, stderr=stderr, cwd=folder,
            )  # fmt: skip

    @property
    def console(self) -> str:
        """Return what the guest has printed."""
        return self._out.read_text("ascii", "replace")

    @property
    def messages(self) -> str:
        """Return the process's messages for people."""
        return self._err.read_text()

    def qmp(self) -> Qmp:
        """Connect to the control socket once it is there."""
        self.wait_until_serving()
        return Qmp(self.control)

    def wait_until_serving(self) -> None:
        """Wait until the control socket is there: commands that come earlier fail."""
        until(lambda: self.is_serving() or self.has_ended(), f"{self.control}")
        assert self.is_serving(), self.messages

    def is_serving(self) -> bool:
        """Return whether the control socket accepts connections."""
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.control)) == 0

    def has_ended(self) -> bool:
        """Return whether the process is gone."""
        return self.process.poll() is not None

    def status(self) -> int:
        """Wait for the end and return the exit status."""
        return self.process.wait(TIMEOUT_S)

    def wait_for_console(self, text: str, times: int = 1, timeout_s: float = TIMEOUT_S) -> None:
        """Wait until the guest has said `text` so often."""
        until(
            lambda: self.console.count(text) >= times or self.has_ended(),
            f"{times} times {text!r} on the console; messages: {self.messages}",
            timeout_s,
        )
        assert self.console.count(text) >= times, self.messages

    def incoming_uri(self) -> str:
        """Return where this process awaits a VM."""
        with self.qmp() as qmp:
            addresses = qmp.migration()["socket-address"]
        assert isinstance(addresses, list)
        (address,) = addresses
        if address["type"] == "unix":
            return f"unix:{address['path']}"
        return f"tcp:{address['host']}:{address['port']}"

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.process.send_signal(number)


@contextmanager
def vm_process(
    folder: Path, name: str, *options: str, stderr: int | None = None
) -> Iterator[VmProcess]:
    """Run a VM for the time of a `with` block."""
    vm = VmProcess(folder, name, options, stderr)
    try:
        yield vm
    finally:
        if not vm.has_ended():
            vm.process.kill()
        vm.process.wait(TIMEOUT_S)
        if isinstance(vm.process, ForkedCommand):
            vm.process.close()
