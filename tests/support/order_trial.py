"""Migrates a guest between two real `tagalong run` processes and gives orders on the way.

`run_trial` returns what both sides are in the end; order_verdict.py judges it.
"""

import random
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tagalong.wire import RecordType, Role
from tests.support.byte_proxy import ByteProxy
from tests.support.cli_fork import ForkedCommand
from tests.support.fault_proxy import Fault, FaultProxy, Kind
from tests.support.order_plan import COMMANDS, SIGNALS, Order, Plan, Shape, Transport
from tests.support.vm_processes import Qmp

GUEST = (
    "--guest",
    "churn",
    "--guest-args",
    "working-set=64K report=64 write-rate=5",
    "--ram",
    "4M",
)
SETTLE_S = 60.0
_FINAL = {"completed", "failed", "cancelled"}
_LOOK_S = 0.02
_DECLINED = "the VM arrives at this moment"


class Client:
    """A QMP connection to a process that may end at any time; None means that it has ended."""

    def __init__(self, path: Path) -> None:
        self._qmp: Qmp | None = None
        self._path = path
        self._lock = threading.Lock()  # orders that are due at once come from several threads

    def connect(self, process: ForkedCommand) -> bool:
        """Connect once the control socket is there; return False if the process ends before."""
        deadline = time.monotonic() + SETTLE_S
        while process.poll() is None:
            with suppress(OSError, ValueError):
                self._qmp = Qmp(self._path)
                return True
            assert time.monotonic() < deadline, f"{self._path}: no control socket"
            time.sleep(0.005)
        return False

    def execute(self, command: str, **arguments: object) -> dict[str, object] | None:
        """Run a command and return the reply. Raises TimeoutError if none comes."""
        if self._qmp is None:
            return None
        try:
            with self._lock:
                return self._qmp.execute(command, **arguments)
        except TimeoutError:
            raise
        except (OSError, ValueError):
            return None

    def ask(self, command: str) -> dict[str, object] | None:
        """Return what a query returns."""
        reply = self.execute(command)
        value = reply.get("return") if reply is not None else None
        return value if isinstance(value, dict) else None

    def close(self) -> None:
        """Close the connection."""
        if self._qmp is not None:
            self._qmp.__exit__(None, None, None)


@dataclass
class Side:
    """One process of a trial and its connections."""

    process: ForkedCommand
    queries: Client
    orders: Client

    def look(self) -> "Look":
        """Return what the process says it is."""
        status, migration = self.queries.ask("query-status"), self.queries.ask("query-migrate")
        if status is None or migration is None:
            return Look(exit_status=self.process.status_within(SETTLE_S))
        return Look(
            state=str(status["status"]),
            migration=str(migration.get("status", "none")),
            error=str(migration.get("error-desc", "")),
        )

    def close(self) -> None:
        """End everything."""
        self.process.close()
        self.queries.close()
        self.orders.close()


@dataclass(frozen=True)
class Look:
    """A process at one moment: its run state and its migration, or its exit status."""

    state: str = "gone"
    migration: str = "none"
    error: str = ""
    exit_status: int | None = None

    @property
    def is_gone(self) -> bool:
        """Return whether the process has ended, or does not answer any more."""
        return self.state == "gone"

    @property
    def has_vm(self) -> bool:
        """Return whether the VM is here and may run here."""
        return self.state in {"running", "paused", "prelaunch", "save-vm"}

    @property
    def is_settled(self) -> bool:
        """Return whether no migration is under way here."""
        return self.is_gone or self.migration in {*_FINAL, "none"}


@dataclass
class Given:
    """An order that was given and its answer.

    `after_commit`: COMMIT was on its way. `after_arrival`: the destination had said that the VM
    has arrived. `state`: the run state of the VM at that side just before.
    """

    order: Order
    reply: dict[str, object] | None
    after_commit: bool
    after_arrival: bool
    state: str = ""

    @property
    def was_accepted(self) -> bool:
        """Return whether a command was answered without an error."""
        return self.reply is not None and "return" in self.reply


@dataclass
class Trial:
    """What became of a plan."""

    plan: Plan
    given: list[Given] = field(default_factory=list)
    source: Look = field(default_factory=Look)
    destination: Look = field(default_factory=Look)
    messages: dict[Role, str] = field(default_factory=dict)
    complaints: list[str] = field(default_factory=list)
    shape: Shape = field(default_factory=lambda: {Role.SOURCE: [], Role.DESTINATION: []})

    def was_declined(self, side: Role) -> bool:
        """Return whether `side` declined to end because the VM arrived at that moment."""
        replies = "".join(str(given.reply) for given in self.given if given.order.side is side)
        return _DECLINED in self.messages.get(side, "") + replies

    def gave(self, side: Role) -> list[Given]:
        """Return the orders to end that `side` was given."""
        return [given for given in self.given if given.order.side is side and given.order.ends]


def run_trial(server: str, plan: Plan, certificates: Path) -> Trial:
    """Carry a plan out, wait until both sides have settled, and try the VM where it is."""
    folder = Path(tempfile.mkdtemp(prefix="ta-"))
    try:
        with _Scene(server, plan, folder, certificates) as scene:
            try:
                scene.run()
            except (TimeoutError, AssertionError) as error:
                scene.trial.complaints.append(f"hangs: {error!r}")
            return scene.trial
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Scene:
    """The processes of a trial, the proxy between them, and the orders."""

    def __init__(self, server: str, plan: Plan, folder: Path, certificates: Path) -> None:
        self.trial = Trial(plan)
        self._server = server
        self._plan = plan
        self._folder = folder
        self._certificates = certificates
        self._stack = ExitStack()
        self._sides: dict[Role, Side] = {}
        self._is_committed = False
        self._given = threading.Event()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> "_Scene":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        for thread in self._threads:
            thread.join(SETTLE_S)

    def run(self) -> None:
        if self._plan.transport.is_conversation:
            self._start(Role.DESTINATION, "--incoming", self._incoming(), *self._tls_options())
        source = self._start(Role.SOURCE, *GUEST)
        _until(lambda: "progress" in source.process.console, "the guest's first line")
        self._set_up(source.queries)
        with self._between() as uri:
            source.queries.execute("migrate", uri=uri, x_verify=self._plan.verify)
            if not self._plan.transport.is_conversation:
                self._later(self._plan.place / 1e6, self._give_orders)
            self._settle()
        self._load()
        self._settle()
        self._try()

    # --- the processes ---

    def _start(self, role: Role, *arguments: str) -> Side:
        name = role.name.lower()
        control = self._folder / f"{name}.sock"
        command = ("run", "--control", str(control), *arguments)
        process = ForkedCommand(self._server, self._folder, name, *command)
        side = Side(process, Client(control), Client(control))
        self._sides[role] = side
        self._stack.callback(side.close)
        for client in (side.queries, side.orders):
            client.connect(process)
        return side

    def _incoming(self) -> str:
        if self._plan.transport in (Transport.TCP, Transport.TLS):
            return "tcp:127.0.0.1:0"
        return f"unix:{self._folder}/target"

    def _tls_options(self) -> tuple[str, ...]:
        is_tls = self._plan.transport is Transport.TLS
        return ("--tls-dir", str(self._certificates)) if is_tls else ()

    def _set_up(self, queries: Client) -> None:
        # With a downtime limit that a busy host meets, the guest stops after the first round, and
        # the same record has the same number in every trial.
        queries.execute("migrate-set-parameters", downtime_limit=20_000)
        if self._plan.reconnect_s:
            queries.execute("migrate-set-parameters", x_reconnect=self._plan.reconnect_s)
        if self._plan.transport is Transport.TLS:
            queries.execute("migrate-set-parameters", tls_creds=str(self._certificates))
        if self._plan.transport is Transport.CHANNELS:
            multifd = [{"capability": "multifd", "state": True}]
            queries.execute("migrate-set-capabilities", capabilities=multifd)

    # --- what is between them ---

    @contextmanager
    def _between(self) -> Iterator[str]:
        """Yield the URI to which the source migrates."""
        plan, path = self._plan, self._folder / "proxy"
        match plan.transport:
            case Transport.FILE:
                yield f"file:{self._folder}/vm"
            case Transport.EXEC:
                yield f"exec:cat > {self._folder}/vm"
            case Transport.TCP | Transport.TLS:
                port = self._listening_port()
                with ByteProxy(port, plan.role, plan.place, self._reached) as byte_proxy:
                    yield byte_proxy.uri
            case _:
                cut = plan.transport is Transport.RECONNECT
                kind = Kind.CUT if cut else Kind.KILL
                fault = Fault(kind, plan.role, plan.number, plan.place)
                target = str(self._folder / "target")
                with FaultProxy(
                    str(path), target, fault, kill=self._reached, observe=self._observe
                ):
                    yield f"unix:{path}"

    def _listening_port(self) -> int:
        info = self._sides[Role.DESTINATION].queries.ask("query-migrate") or {}
        addresses = info["socket-address"]
        assert isinstance(addresses, list)
        return int(addresses[0]["port"])

    def _observe(self, role: Role, number: int, record: bytes) -> None:
        plan = self._plan
        at_place = (role, number) == (plan.role, plan.number)
        if number >= 0:
            self.trial.shape[role].append(len(record))
            is_commit = int.from_bytes(record[:2], "little") == RecordType.COMMIT
            # The record at the place waits until the orders have been given.
            self._is_committed |= is_commit and not at_place
            if at_place and plan.transport is Transport.RECONNECT:
                self._later(0, self._give_orders)

    # --- the orders ---

    def _reached(self) -> None:
        """Give the orders; the bytes at the place pass on when this returns."""
        self._give_orders()
        time.sleep(self._plan.hold_s)

    def _give_orders(self) -> None:
        for order in self._plan.orders:
            if order.delay_s:
                self._later(order.delay_s, lambda order=order: self._give(order))  # type: ignore[misc]
            else:
                self._give(order)

    def _give(self, order: Order) -> None:
        side = self._sides.get(order.side)
        if side is None or side.process.poll() is not None:
            return
        moment = (self._is_committed, self._has_arrived())
        if order.what in SIGNALS:
            side.process.send_signal(signal.Signals[order.what])
            self.trial.given.append(Given(order, None, *moment))
            return
        try:
            status = side.orders.ask("query-status") or {}
            reply = side.orders.execute(order.what, **self._arguments(order.what))
        except TimeoutError:
            self.trial.complaints.append(f"{order}: no answer")
            return
        self.trial.given.append(Given(order, reply, *moment, str(status.get("status"))))

    def _has_arrived(self) -> bool:
        there = self._sides.get(Role.DESTINATION)
        return there is not None and "the VM has arrived" in there.process.messages

    def _arguments(self, command: str) -> dict[str, object]:
        return {name: self._place(value) for name, value in COMMANDS[command].items()}

    def _place(self, value: object) -> object:
        """Return an argument with the trial's own paths in it."""
        if not isinstance(value, str):
            return value
        return value.replace("PROXY", f"{self._folder}/proxy").replace("FOLDER", str(self._folder))

    def _later(self, seconds: float, run: Callable[[], None]) -> None:
        timer = threading.Timer(seconds, run)
        timer.start()
        self._threads.append(timer)

    # --- the end ---

    def _settle(self) -> None:
        """Wait until no migration is under way on either side, twice in a row."""
        deadline, before = time.monotonic() + SETTLE_S, None
        while True:
            for thread in list(self._threads):
                thread.join(SETTLE_S)
            now = self._look()
            settled = now[0].is_settled and self._is_settled(now[1])
            if now == before and settled and not self._is_ending(now):
                return
            before = now
            assert time.monotonic() < deadline, f"not settled: {now}"
            time.sleep(_LOOK_S)

    def _is_ending(self, looks: tuple[Look, Look]) -> bool:
        """Return whether a process was told to end, did not decline, and is still there."""
        return any(
            self.trial.gave(role) and not look.is_gone and not self.trial.was_declined(role)
            for role, look in zip(Role, looks, strict=True)
        )

    def _is_settled(self, destination: Look) -> bool:
        """Return whether the destination has nothing to do, or waits for a source to come."""
        waits = self._plan.transport.is_conversation and destination.migration == "setup"
        return waits or destination.is_settled

    def _look(self) -> tuple[Look, Look]:
        trial, sides = self.trial, self._sides
        there = sides.get(Role.DESTINATION)
        first = there.look() if there is not None else Look()
        trial.source = sides[Role.SOURCE].look()
        trial.destination = there.look() if there is not None else Look()
        if trial.source.state == first.state == trial.destination.state == "running":
            trial.complaints.append("both sides run the VM")
        for role, side in sides.items():
            trial.messages[role] = side.process.messages
        return trial.source, trial.destination

    def _load(self) -> None:
        """Load a VM that went into a file, as its operator would."""
        path = self._folder / "vm"
        moved = self.trial.source.state == "postmigrate" or self.trial.source.is_gone
        if not self._plan.transport.is_conversation and moved and path.exists():
            self._start(Role.DESTINATION, "--incoming", f"file:{path}")

    def _try(self) -> None:
        """Let the VM run where it is; take it back first if the hand-over was uncertain."""
        source, destination = self.trial.source, self.trial.destination
        if destination.has_vm:
            self._try_at(Role.DESTINATION)
        elif source.has_vm:
            self._try_at(Role.SOURCE)
        elif source.state == "postmigrate" and source.migration == "failed":
            reply = self._sides[Role.SOURCE].queries.execute("x-reclaim")
            if reply is None or "error" in reply:
                self.trial.complaints.append(f"x-reclaim is refused: {reply}")
            self._try_at(Role.SOURCE)

    def _try_at(self, role: Role) -> None:
        side = self._sides[role]
        reply = side.queries.execute("cont")
        if reply is None or "error" in reply:
            self.trial.complaints.append(f"cont is refused where the VM is: {reply}")
            return
        count = side.process.console.count("progress")
        _until(lambda: side.process.console.count("progress") > count, "progress of the guest")
        for one in self._sides.values():
            if "FAIL" in one.process.console:
                self.trial.complaints.append("the guest's memory or tags came to harm")


def _until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + SETTLE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {SETTLE_S} s for {what}"
        time.sleep(0.005)


def measure_shape(server: str, certificates: Path) -> Shape:
    """Return the records of a migration without orders."""
    plan = Plan(Transport.UNIX, Role.SOURCE, -2, 0, ())
    trial = run_trial(server, plan, certificates)
    assert trial.destination.has_vm, trial
    return trial.shape


def draw_seed() -> int:
    """Return a new seed."""
    return random.SystemRandom().randrange(1 << 32)
