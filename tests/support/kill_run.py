"""Migrations between two processes of which one is killed, and what that may leave."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tagalong.migrate import UnixAddress
from tagalong.wire import Role
from tests.support.caller import ring_off
from tests.support.fault_proxy import Fault, FaultProxy

_ROOT = Path(__file__).parents[2]
_PATIENCE_S = 60.0


class Child:
    """One forked process."""

    def __init__(self, server: str, role: str, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(_PATIENCE_S)
        self._socket.connect(server)
        self._stream = self._socket.makefile("rw")
        self._stream.write(json.dumps({"role": role, "path": path}) + "\n")
        self._stream.flush()
        self.pid = int(self._expect()["pid"])  # type: ignore[call-overload]

    def go(self) -> None:
        """Let it begin."""
        self._stream.write("go\n")
        self._stream.flush()

    def answer(self) -> dict[str, object] | None:
        """Return what the process says next, None if it was killed before."""
        try:
            line = self._stream.readline()
        except ConnectionResetError:
            return None
        answer: dict[str, object] | None = json.loads(line) if line else None
        return answer

    def _expect(self) -> dict[str, object]:
        answer = self.answer()
        assert answer is not None, "a process died before its time"
        return answer

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def close(self) -> None:
        self._stream.close()
        self._socket.close()


@contextmanager
def fork_server() -> Iterator[str]:
    """Run the process that forks; give the path of its socket."""
    with tempfile.TemporaryDirectory(prefix="ta-") as folder:
        path = f"{folder}/fork"
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.kill_child", path],
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


@dataclass
class Killing:
    """What became of both processes; None for one that was killed before it could say."""

    fault: Fault
    victim: Role
    source: dict[str, object] | None
    destination: dict[str, object] | None
    has_struck: bool

    @property
    def what(self) -> str:
        """Return what was done, for people."""
        return f"{self.victim.name.lower()} killed, {self.fault}"


def kill_at(server: str, fault: Fault, victim: Role) -> Killing:
    """Migrate between two processes and kill `victim` where `fault` says."""
    with tempfile.TemporaryDirectory(prefix="ta-") as folder:
        target, path = f"{folder}/target", f"{folder}/proxy"
        destination, source = (
            Child(server, role, where)
            for role, where in (("destination", target), ("source", path))
        )
        children = {Role.SOURCE: source, Role.DESTINATION: destination}
        destination.go()
        assert destination.answer() == {"listens": True}
        with FaultProxy(path, target, fault, kill=children[victim].kill) as proxy:
            source.go()
            try:
                said = source.answer()
                if said is None or said["outcome"] == "stayed":
                    ring_off(UnixAddress(Path(target)))
                return Killing(fault, victim, said, destination.answer(), proxy.has_struck)
            finally:
                for child in children.values():
                    child.kill()
                    child.close()


def judge_killing(killing: Killing, sizes: dict[Role, list[int]], digest: str) -> str | None:
    """Return what is wrong with what a kill left, None if nothing is.

    `sizes`: the records of a migration without one. `digest`: of the machine as it stood.
    """
    wrong = None
    if killing.source is not None:
        wrong = _judge_source(killing, sizes)
    if wrong is None and killing.destination is not None:
        wrong = _judge_destination(killing, sizes, digest)
    return wrong


def _judge_destination(killing: Killing, sizes: dict[Role, list[int]], digest: str) -> str | None:
    destination = killing.destination
    assert destination is not None
    if destination["outcome"] == "nothing":
        return "started and denied" if destination["taken_over"] else None
    if destination["taken_over"] != [digest]:
        return f"the destination runs another machine: {destination}"
    if killing.source is not None and killing.source["runs"]:
        return "both ends run the VM"
    if killing.has_struck and _is_early(killing.fault, sizes):
        return "started without a whole COMMIT"
    return None


def _judge_source(killing: Killing, sizes: dict[Role, list[int]]) -> str | None:
    source = killing.source
    assert source is not None
    if source["runs"] is not (source["outcome"] == "stayed"):
        return f"the source reports one thing and does another: {source}"
    if source["outcome"] != "stayed" and killing.has_struck and _is_early(killing.fault, sizes):
        return f"the source gave the VM up before COMMIT: {source}"
    return None


def _is_early(fault: Fault, sizes: dict[Role, list[int]]) -> bool:
    """Return whether the fault lies before READY came and COMMIT was sent."""
    commit, ready = len(sizes[Role.SOURCE]) - 1, len(sizes[Role.DESTINATION]) - 2
    return fault.number < (commit if fault.role is Role.SOURCE else ready)
