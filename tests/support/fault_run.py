"""Runs migrations in which one thing goes wrong, and judges what is left of the VM.

The verdict is the project's promise: whatever fails, exactly one end can run the VM, its
memory and tags are what they were, and the reports say which end that is.
"""

import tempfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from tagalong.errors import HandoverUncertainError, MigrationError
from tagalong.machine import Machine, MachinePages, RunState
from tagalong.migrate import (
    Arrival,
    MachineBuilder,
    MigrationOptions,
    MigrationReport,
    ProgressCallback,
    SendProgress,
    Timeouts,
    UnixAddress,
    listen,
    memory_digest,
    migrate_to,
    receive_from,
)
from tagalong.wire import Role
from tests.support.caller import ring_off
from tests.support.fault_proxy import Fault, FaultProxy, Kind, Observer

# Long enough for a busy host, short enough for hundreds of stalls.
TIMEOUTS = Timeouts(connect_s=10.0, idle_s=1.5, record_s=5.0, answer_s=10.0, farewell_s=0.2)

# With a downtime limit that even a busy host meets, the guest is stopped after the same round in
# each migration, so the same fault meets the same record.
OPTIONS = MigrationOptions(max_downtime_s=5.0, timeouts=TIMEOUTS)

# For a machine on an emulated host, where everything takes ten times as long.
PATIENT_OPTIONS = MigrationOptions(
    max_downtime_s=5.0, timeouts=Timeouts(idle_s=15.0, farewell_s=1.0)
)

_AT_ONCE = 8
_JOIN_S = 60.0


@dataclass
class Case:
    """A migration of `source`, which is closed, to what `build` makes, and what came of it."""

    source: Machine
    build: MachineBuilder
    fault: Fault | None = None
    options: MigrationOptions = OPTIONS
    observe: Observer = lambda *_: None
    progress: ProgressCallback[SendProgress] | None = None
    report: MigrationReport | None = None
    source_error: BaseException | None = None
    arrival: Arrival | None = None
    destination_error: BaseException | None = None
    has_struck: bool = False
    built: list[Machine] = field(default_factory=list)
    taken_over: list[bytes] = field(default_factory=list)

    def run(self) -> None:
        """Migrate, over unix sockets, with the fault between them."""
        with tempfile.TemporaryDirectory(prefix="ta-") as folder:
            target, path = Path(folder) / "target", Path(folder) / "proxy"
            with (
                listen(UnixAddress(target)) as listener,
                FaultProxy(str(path), str(target), self.fault, observe=self.observe) as proxy,
            ):
                thread = threading.Thread(target=self._receive, args=(listener,))
                thread.start()
                self._migrate(f"unix:{path}")
                if self.source_error is not None:
                    ring_off(listener.address)
                thread.join(_JOIN_S)
                if thread.is_alive():
                    raise AssertionError(f"{self.fault}: the destination hangs")
                self.has_struck = proxy.has_struck

    def _migrate(self, uri: str) -> None:
        try:
            self.report = migrate_to(uri, self.source, self.options, progress=self.progress)
        except Exception as error:  # noqa: BLE001 (judged later)
            self.source_error = error

    def _receive(self, listener: object) -> None:
        try:
            self.arrival = receive_from(
                listener,  # type: ignore[arg-type]
                self._build,
                take_over=self._take_over,
                timeouts=self.options.timeouts,
            )
        except Exception as error:  # noqa: BLE001 (judged later)
            self.destination_error = error

    def _build(self, description: object) -> Machine:
        machine = self.build(description)  # type: ignore[arg-type]
        self.built.append(machine)
        return machine

    def _take_over(self, machine: Machine, ran: bool) -> None:
        self.taken_over.append(digest(machine))
        if ran:
            machine.resume()

    def close(self) -> None:
        """Close both machines."""
        for machine in (self.source, *self.built):
            machine.close()


def digest(machine: Machine) -> bytes:
    """Return the digest of all memory and tags."""
    return memory_digest(MachinePages(machine), lambda: None, has_tags=True)


def judge(case: Case) -> str | None:
    """Return what is wrong with how a migration ended, None if nothing is."""
    if case.report is not None:
        return _judge_success(case)
    if not isinstance(case.source_error, MigrationError):
        return f"the source failed in another way: {case.source_error!r}"
    if isinstance(case.source_error, HandoverUncertainError):
        return _judge_uncertain(case)
    return _judge_failure(case)


def _judge_success(case: Case) -> str | None:
    if case.arrival is None:
        return f"the source reports success, the destination {case.destination_error!r}"
    if case.source.run_state is not RunState.PAUSED:
        return "both ends run the VM"
    return _judge_arrival(case)


def _judge_uncertain(case: Case) -> str | None:
    if case.source.run_state is not RunState.PAUSED:
        return "the source is not sure, and runs the VM"
    if case.arrival is not None:
        if case.arrival.migration_id not in str(case.source_error):
            return f"the reports name different migrations: {case.source_error}"
        return _judge_arrival(case)
    return _judge_nothing_started(case)


def _judge_failure(case: Case) -> str | None:
    if case.source.run_state is not RunState.RUNNING:
        return f"the VM is lost: it is {case.source.run_state} at the source: {case.source_error}"
    if case.arrival is not None:
        return f"both ends run the VM: the source after {case.source_error!r}"
    return _judge_nothing_started(case)


def _judge_arrival(case: Case) -> str | None:
    if len(case.taken_over) != 1:
        return f"taken over {len(case.taken_over)} times"
    if case.taken_over[0] != digest(case.source):
        return "the destination runs the VM with other memory or tags"
    return None


def _judge_nothing_started(case: Case) -> str | None:
    if case.taken_over:
        return f"the destination started the VM although {case.destination_error!r}"
    if not isinstance(case.destination_error, MigrationError):
        return f"the destination failed in another way: {case.destination_error!r}"
    return None


@dataclass
class Tally:
    """What came of many cases; `reasons` are why the guest stayed at the source."""

    struck: int = 0
    moved: int = 0
    stayed: int = 0
    uncertain: int = 0
    wrong: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)

    def add(self, case: Case) -> None:
        """Judge a case and take it in."""
        verdict = judge(case)
        if verdict is not None:
            self.wrong.append(f"{case.fault}: {verdict}")
        self.struck += case.has_struck
        if case.report is not None:
            self.moved += 1
        elif isinstance(case.source_error, HandoverUncertainError):
            self.uncertain += 1
        else:
            self.stayed += 1
            self.reasons.append(f"{case.fault}: {case.source_error}")


def run_all(make: Callable[[Fault], Case], faults: Sequence[Fault]) -> Tally:
    """Run a case for each fault, several at once, and judge them all."""
    tally = Tally()

    def run(fault: Fault) -> Case:
        case = replace(make(fault), fault=fault)
        try:
            case.run()
            return case
        except BaseException:
            case.close()
            raise

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for case in pool.map(run, faults):
            try:
                tally.add(case)
            finally:
                case.close()
    return tally


def shape(make: Callable[[], Case]) -> dict[Role, list[int]]:
    """Return how long each record of each stream is, of a migration without a fault."""
    sizes: dict[Role, list[int]] = {Role.SOURCE: [], Role.DESTINATION: []}

    def observe(role: Role, number: int, record: bytes) -> None:
        if number >= 0:
            sizes[role].append(len(record))

    case = replace(make(), observe=observe)
    try:
        case.run()
        assert case.report is not None, repr(case.source_error)
    finally:
        case.close()
    return sizes


def at_boundaries(kind: Kind, sizes: dict[Role, list[int]]) -> list[Fault]:
    """Return a fault before each record of both streams, and one behind the last."""
    return [
        Fault(kind, role, number, seed=number)
        for role, records in sizes.items()
        for number in range(-1, len(records))
    ] + [Fault(kind, role, len(records) - 1, 1 << 30) for role, records in sizes.items()]
