"""Forks processes that migrate a machine, so that a test can kill them at any moment.

    python -m tests.support.kill_child SOCKET

For each connection to SOCKET one process: it reads a line of JSON (what to do), answers with
its pid, does it, and says what came of it. A connection that ends before is a process that
was killed. One process that has everything loaded does the forking: that takes milliseconds
where starting Python takes a second.
"""

import json
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tagalong.errors import HandoverUncertainError, TagalongError
from tagalong.machine import MachineDescription, RunState
from tagalong.migrate import Timeouts, UnixAddress, listen, migrate_to, receive_from
from tagalong.vmm.options import ExpectedMachine
from tests.support.fake_machine import RAM, FakeMachine, describe
from tests.support.fault_run import OPTIONS, TIMEOUTS, digest

# What a destination under attack allows: short, so that a test of a time limit is short. An
# attack that is not about time meets one that a busy host does not make impatient.
HURRIED = Timeouts(idle_s=0.5, record_s=1.5, answer_s=2.0, farewell_s=0.2)
UNHURRIED = replace(HURRIED, idle_s=60.0, record_s=60.0, answer_s=60.0)
HOSTILE_MAX_RAM_BYTES = 64 << 20

Answer = dict[str, object]
Tell = Callable[[Answer], None]


def make_source() -> FakeMachine:
    """Return a running machine; the same each time, and so are the streams of its migration."""
    machine = FakeMachine(
        describe(0x2_0000, 0x1_0000),
        guest=lambda it: it.guest_write(RAM + 0x1000, b"again", tags=b"\x12"),
    )
    first, second = machine.memory.regions
    first.raw_data[:0x8000] = 0x5A
    first.raw_tags[:0x400] = 0x37
    second.raw_data[:0x2000] = 0xA5
    machine.resume()
    return machine


def _send(path: str) -> Answer:
    machine = make_source()
    try:
        migrate_to(f"unix:{path}", machine, OPTIONS)
    except HandoverUncertainError as error:
        outcome, text = "uncertain", str(error)
    except TagalongError as error:
        outcome, text = "stayed", str(error)
    else:
        outcome, text = "moved", ""
    runs = machine.run_state is RunState.RUNNING
    machine.pause()
    return {"outcome": outcome, "runs": runs, "digest": digest(machine).hex(), "error": text}


def _suffer(path: str, tell: Tell, timeouts: Timeouts) -> Answer:
    """Receive from a hostile peer; tell what it led to, and what it cost."""
    machines: list[FakeMachine] = []

    def build(description: MachineDescription) -> FakeMachine:
        ExpectedMachine(max_ram_bytes=HOSTILE_MAX_RAM_BYTES).check(description)
        machines.append(FakeMachine(description))
        return machines[-1]

    with listen(UnixAddress(Path(path))) as listener:
        tell({"listens": True})
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        before = _memory_bytes("VmRSS")
        began = time.monotonic()
        error: BaseException | None = None
        try:
            receive_from(listener, build, timeouts=timeouts)
        except TagalongError as caught:
            error = caught
    return {
        "error": type(error).__name__,
        "cause": type(error.__cause__).__name__ if error is not None else "",
        "text": str(error),
        "started": any(machine.was_ever_resumed for machine in machines),
        "grew_bytes": _memory_bytes("VmHWM") - before,
        "took_s": time.monotonic() - began,
    }


def _memory_bytes(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) << 10
    raise AssertionError(name)


def _receive(path: str, tell: Tell) -> Answer:
    taken_over: list[str] = []

    def take_over(machine: object, _ran: bool) -> None:
        assert isinstance(machine, FakeMachine)
        taken_over.append(digest(machine).hex())
        machine.resume()

    with listen(UnixAddress(Path(path))) as listener:
        tell({"listens": True})
        try:
            arrival = receive_from(listener, FakeMachine, take_over=take_over, timeouts=TIMEOUTS)
        except TagalongError as error:
            return {"outcome": "nothing", "taken_over": taken_over, "error": str(error)}
    return {
        "outcome": "arrived",
        "taken_over": taken_over,
        "acknowledged": arrival.acknowledged,
        "error": "",
    }


def _serve_one(connection: socket.socket) -> None:
    stream = connection.makefile("rw")

    def tell(answer: Answer) -> None:
        stream.write(json.dumps(answer) + "\n")
        stream.flush()

    wish = json.loads(stream.readline())
    tell({"pid": os.getpid()})
    stream.readline()  # "go"
    path = wish["path"]
    match wish["role"]:
        case "source":
            tell(_send(path))
        case "destination":
            tell(_receive(path, tell))
        case "victim":
            tell(_suffer(path, tell, HURRIED))
        case "patient victim":
            tell(_suffer(path, tell, UNHURRIED))


def main(path: str) -> None:
    """Fork for each connection, until the parent goes."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no zombies: the exit statuses are not used
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
        try:
            _serve_one(connection)
        except BaseException:  # noqa: BLE001 (a fork must not go on in the parent's loop)
            traceback.print_exc()
        os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1])
