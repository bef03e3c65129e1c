"""A guest that works: its downtime where the link is just fast enough, and its tags.

The link is a TCP connection that the kernel paces (SO_MAX_PACING_RATE), so that the last pages
go no faster than all others. Its rate is twice that at which the guest dirties memory, as
measured in the migrations before. The destination is a process of its own, and what arrives there
runs for a moment.
"""

import multiprocessing
import socket
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from statistics import median

from rich.console import Console
from rich.progress import track

from bench.migrate import heap
from bench.migrate.sample import Figures
from tagalong.boot import boot_guest, guest_image_path
from tagalong.errors import ConvergenceError, MigrationError
from tagalong.migrate import (
    Channel,
    MigrationOptions,
    MigrationReport,
    MigrationStage,
    SendProgress,
    TcpAddress,
    Timeouts,
    listen,
    migrate,
    receive_from,
)
from tagalong.soft import SoftMachine

MIB = 1 << 20

_SPAWN = multiprocessing.get_context("spawn")
_SO_MAX_PACING_RATE = 47  # include/uapi/asm-generic/socket.h; not in Python's socket module
_WARM_UP = 12
_RECENT = 8
_BETWEEN_S = 0.3
_RUNS_THERE_S = 0.05
_SETTLED_S = 1.0
_FIRST_BYTES_PER_S = 100e6


@dataclass(frozen=True)
class Workload:
    """A machine of `ram_mib` in which churn works on `heap_mib` for `write_percent` of its time."""

    ram_mib: int = 64
    heap_mib: int = 32
    write_percent: int = 50

    @property
    def command_line(self) -> str:
        """Return churn's knobs."""
        return f"working-set={self.heap_mib}M write-rate={self.write_percent} report=1000000"


@dataclass(frozen=True)
class Trial:
    """One migration; `report` is None if it gave up. `expected_s`: when the guest was stopped."""

    link_bytes_per_s: float
    report: MigrationReport | None = None
    expected_s: float = 0.0

    @property
    def dirtied_bytes(self) -> int:
        """Return what the guest dirtied while it was migrated."""
        assert self.report is not None
        page_bytes = self.report.rounds[0].data_bytes // self.report.rounds[0].pages
        return page_bytes * sum(each.dirty_pages_left for each in self.report.rounds)

    @property
    def live_s(self) -> float:
        """Return for how long it could: all rounds but the last."""
        assert self.report is not None
        return sum(each.duration_s for each in self.report.rounds[:-1])


def dirty_bytes_per_s(trials: Collection[Trial]) -> float:
    """Return the rate over all of several migrations, which have moved the guest."""
    return sum(each.dirtied_bytes for each in trials) / sum(each.live_s for each in trials)


class Rig:
    """The guest, and a process that takes it again and again; closed by `close`."""

    def __init__(self, workload: Workload) -> None:
        self._said: list[str] = []
        self.machine = SoftMachine.create(
            ram_bytes=workload.ram_mib * MIB, console=_hearer(self._said)
        )
        image = guest_image_path("churn").read_bytes()
        boot_guest(self.machine, image, command_line=workload.command_line)
        self._ours, theirs = _SPAWN.Pipe()
        self._process = _SPAWN.Process(target=_take_all, args=(theirs,), daemon=True)
        self._process.start()
        self._port = self._ours.recv()
        self._settle()

    def _settle(self) -> None:
        """Let the guest work until it has used its whole heap."""
        self.machine.resume()
        before = -1
        while (now := sum(each.count() for each in self.machine.populated_pages())) > before:
            before = now
            time.sleep(_SETTLED_S)

    def run(self, bytes_per_s: float, max_downtime_s: float) -> Trial:
        """Migrate a copy of the guest over a link of that rate; the guest here resumes."""
        self.machine.resume()
        time.sleep(_BETWEEN_S)
        expected: list[float] = []

        def watch(progress: SendProgress) -> None:
            if (
                progress.stage is MigrationStage.LAST_PAGES
                and progress.expected_downtime_s is not None
            ):
                expected[:] = [progress.expected_downtime_s]

        options = MigrationOptions(max_downtime_s=max_downtime_s)
        self._ours.send(True)
        try:
            channel = _connect(self._port, bytes_per_s)
            report = migrate(channel, self.machine, options, progress=watch)
        except ConvergenceError:
            return Trial(bytes_per_s)
        finally:
            self._require_sound()
        return Trial(bytes_per_s, report, expected[0])

    def _require_sound(self) -> None:
        for side, said in (("source", self._said), ("destination", self._ours.recv())):
            if said:
                raise SystemExit(f"the guest noticed something at the {side}: {said}")

    def close(self) -> None:
        """End both."""
        self._ours.send(False)
        self._process.join()
        self.machine.close()


@contextmanager
def rig(workload: Workload) -> Iterator[Rig]:
    """Give a rig for a `with` statement."""
    made = Rig(workload)
    try:
        yield made
    finally:
        made.close()


def _connect(port: int, bytes_per_s: float) -> Channel:
    sock = socket.create_connection(("127.0.0.1", port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, _SO_MAX_PACING_RATE, int(bytes_per_s))
    return Channel(sock, "paced", idle_s=Timeouts().idle_s)


def _hearer(said: list[str]) -> Callable[[bytes], None]:
    """Return a console that collects the guest's complaints."""

    def hear(data: bytes) -> None:
        if b"FAIL" in data:
            said.append(data.decode("ascii", "replace"))

    return hear


def _take_all(peer: Connection) -> None:
    """Take VMs until told to stop; say of each what its guest found wrong."""
    said: list[str] = []
    build = partial(SoftMachine.from_description, console=_hearer(said))
    with listen(TcpAddress("127.0.0.1", 0)) as listener:
        assert isinstance(listener.address, TcpAddress)
        peer.send(listener.address.port)
        while peer.recv():
            with suppress(MigrationError):  # one that did not converge
                machine = receive_from(listener, build).machine
                time.sleep(_RUNS_THERE_S)
                machine.close()
            peer.send(said)


def measure(
    workload: Workload, runs: int, max_downtime_s: float, *, with_qemu: bool
) -> dict[str, dict[str, Figures]]:
    """Return what `runs` migrations came to, and what the tags of the heap take."""
    with rig(workload) as made:
        each = _trials(made, runs, max_downtime_s)
        trials = list(track(each, total=runs, transient=True, console=Console(stderr=True)))
        tags = heap.measure(made.machine, with_qemu=with_qemu)
    name = f"churn on {workload.heap_mib} of {workload.ram_mib} MiB"
    return {name: {"tagalong": _figures(trials, max_downtime_s)}, "its tags": tags}


def _trials(rig: Rig, count: int, max_downtime_s: float) -> Iterator[Trial]:
    """Migrate again and again, over a link of twice the rate at which the guest dirties memory.

    The rate is that of the last few migrations: how fast the guest is depends on what else
    the host does, and on how long rounds are.
    """
    bytes_per_s = _FIRST_BYTES_PER_S
    recent: deque[Trial] = deque(maxlen=_RECENT)
    for number in range(-_WARM_UP, count):
        trial = rig.run(bytes_per_s, max_downtime_s)
        if number >= 0:
            yield trial
        if trial.report is not None:
            recent.append(trial)
            bytes_per_s = (bytes_per_s + 2 * dirty_bytes_per_s(recent)) / 2
        elif number < 0:
            bytes_per_s *= 2


def _figures(trials: Sequence[Trial], allowed_s: float) -> Figures:
    moved = [each for each in trials if each.report is not None]
    downtimes = sorted(each.report.downtime.total_s for each in moved if each.report)
    within = sum(each <= allowed_s for each in downtimes)
    dirty = dirty_bytes_per_s(moved)
    link = median([each.link_bytes_per_s for each in trials])
    return {
        "migrations": len(trials),
        "moved": len(moved),
        "link_mb_per_s": link / 1e6,
        "dirty_mb_per_s": dirty / 1e6,
        "dirty_to_link": dirty / link,
        "rounds": median([len(each.report.rounds) for each in moved if each.report]),
        "allowed_ms": allowed_s * 1e3,
        "within_allowed": within / len(trials),
        "downtime_ms": median(downtimes) * 1e3,
        "downtime_95th_ms": downtimes[int(len(downtimes) * 0.95)] * 1e3,
        "longest_ms": downtimes[-1] * 1e3,
        "expected_ms": median([each.expected_s for each in moved]) * 1e3,
        "tags_share_of_data": median([_tags_share(each.report) for each in moved if each.report]),
    }


def _tags_share(report: MigrationReport) -> float:
    return sum(each.tag_bytes_wire for each in report.rounds) / report.data_bytes
