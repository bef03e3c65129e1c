"""Measure what tags add to QEMU's downtime, inside the lab: python -m bench.beside.

    tagalong lab run --with-vmm --ram 4G -- python3 -m bench.beside [--rates 100,500] [--ways pause]

A Linux guest on KVM changes tags at a rate: so many granules per second, at random among 8 MiB. It
moves from one QEMU to the next on the same host, in turn in each of these ways:

    pause    tagalong drives, and QEMU waits with its guest stopped for the last tags
    overlap  tagalong drives, and the last tags travel while QEMU hands over
    other    another tool drives, as libvirt does; the last tags travel as above
    floor    no tags travel: a client answers QEMU's pause at once, and does nothing else

The tags add the pause (QEMU's events from `pre-switchover` to `device`) and the time for which the
guest is held at its destination after QEMU would let it run. QEMU's own downtime is what QEMU says,
without the pause. All by one host's clock; medians, and the least and the most.
"""

import argparse
import asyncio
import json
import socket
import statistics
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tagalong.control.client import ControlClient, connect
from tagalong.control.migration import await_migration, migrate_vm, start_migration
from tagalong.qapi.events import VmEvent
from tagalong.qapi.json_fields import JsonFields, anything
from tagalong.qapi.migration import MigrationInfo, MigrationRequest, Switchover
from tagalong.qapi.reports import ArrivalReport, MigrationResult
from tagalong.qapi.settings import MigrationSettings
from tagalong.studies.beside import QemuGuest
from tagalong.studies.beside.host import BesideHost

_VMM = Path("/opt/vmm")
_WAIT_S = 120.0
_POLL_S = 0.02
# The emulated host is slow, and no limit is to decide when the guest is stopped.
_SETTINGS = MigrationSettings(downtime_limit=60_000)

_WAYS = ("pause", "overlap", "other", "floor")

_CONTINUE = b'{"execute": "migrate-continue", "arguments": {"state": "pre-switchover"}}\r\n'


@dataclass(frozen=True)
class Cost:
    """One migration: QEMU's own downtime, what the tags added, pages left when it stopped.

    `steps_ms`: when each step was, since the guest's stop.
    """

    rate: int
    way: str
    own_ms: float
    tags_ms: float
    pages_left: int
    steps_ms: Mapping[str, float]


class _Moments:
    """When events of a QMP socket came, by name and status, in s; the first of each."""

    def __init__(self) -> None:
        self.at_s: dict[str, float] = {}
        self.data: dict[str, Mapping[str, object]] = {}

    def note(self, event: VmEvent) -> None:
        name = f"{event.name} {event.data.get('status', '')}".strip()
        self.at_s.setdefault(name, event.time_s)
        self.data.setdefault(name, event.data)

    async def when(self, name: str) -> float:
        """Return when it came; wait for it."""
        async with asyncio.timeout(_WAIT_S):
            while name not in self.at_s:
                await asyncio.sleep(_POLL_S)
        return self.at_s[name]


@asynccontextmanager
async def _moments(control: Path) -> AsyncIterator[tuple[ControlClient, _Moments]]:
    moments = _Moments()
    async with connect(control) as client:
        client.tap_events(moments.note)
        yield client, moments


def _nothing(_: MigrationInfo) -> None:
    """Show no progress."""


class _Answerer:
    """A client of QEMU's that does nothing but end its pause, as soon as it hears of it."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(_WAIT_S)
        self._socket.connect(str(path))
        self._file = self._socket.makefile("rb")
        self._file.readline()
        self.execute("qmp_capabilities")
        wanted = [
            {"capability": name, "state": True} for name in ("pause-before-switchover", "events")
        ]
        self.execute("migrate-set-capabilities", {"capabilities": wanted})

    def execute(self, command: str, arguments: Mapping[str, object] | None = None) -> None:
        message = {"execute": command, **({"arguments": arguments} if arguments else {})}
        self._socket.sendall(json.dumps(message).encode() + b"\r\n")
        while b'"return"' not in (line := self._file.readline()):
            if b'"error"' in line or not line:
                raise SystemExit(f"QEMU: {line.decode()}")

    def start(self) -> None:
        """Answer the pause of the migration that begins."""
        threading.Thread(target=self._answer, daemon=True).start()

    def _answer(self) -> None:
        while b'"pre-switchover"' not in (line := self._file.readline()):
            if not line:
                raise SystemExit("QEMU has ended")
        self._socket.send(_CONTINUE)

    def close(self) -> None:
        self._file.close()
        self._socket.close()


class _Row:
    """A guest that moves again and again."""

    def __init__(self, guest: QemuGuest, folder: Path, bandwidth_mb_s: int) -> None:
        self._guest = guest
        self._folder = folder
        self._bandwidth_mb_s = bandwidth_mb_s
        self._count = 0
        self.here = self._host(awaits=False)

    def _host(self, *, awaits: bool) -> BesideHost:
        name = f"host-{self._count}"
        self._count += 1
        own = [
            word
            for suffix in ("own", "floor")
            for word in ("-qmp", f"unix:{self._folder / name}.{suffix},server=on,wait=off")
        ]
        return BesideHost(self._guest, self._folder, name, awaits=awaits, more=own)

    def _own(self, host: BesideHost, suffix: str = "own") -> Path:
        return self._folder / f"{host.name}.{suffix}"

    async def move(self, rate: int, way: str) -> Cost:
        """Migrate once, and require that no granule is wrong."""
        before, there = self.here, self._host(awaits=True)
        try:
            await there.wait_until(
                lambda: "waiting for tags" in there.messages, "waited for tags", _WAIT_S
            )
            cost = await self._measured(rate, way, there)
            self.here = there
            before.stop()
            await there.wait_for_reports(2, _WAIT_S)
        except BaseException:
            there.stop()
            raise
        if there.failures:
            raise SystemExit("\n".join(there.failures))
        return cost

    async def _measured(self, rate: int, way: str, there: BesideHost) -> Cost:
        async with AsyncExitStack() as stack:
            own, source = await stack.enter_async_context(_moments(self._own(self.here)))
            if way in ("other", "floor"):
                events = [{"capability": "events", "state": True}]
                await own.execute("migrate-set-capabilities", {"capabilities": events})
            limit = {"max-bandwidth": self._bandwidth_mb_s * 1_000_000}
            await own.execute("migrate-set-parameters", limit)
            _, resumed = await stack.enter_async_context(_moments(self._own(there)))
            _, arrived = await stack.enter_async_context(_moments(there.control))
            result = await self._move(way, there, own, source)
            resumed_s = await resumed.when("RESUME")
            await arrived.when("MIGRATION completed")
            status = JsonFields(await own.execute("query-migrate"), "query-migrate")
        arrival = JsonFields(arrived.data["MIGRATION completed"]["x-info"], "x-info")
        there_s = arrival.read("x-report", ArrivalReport.from_json).moments_s
        at_s = {**source.at_s, **(result.vmm.moments_s if result.vmm else {}), **there_s}
        at_s["RESUME there"] = resumed_s
        paused_ms = (at_s["MIGRATION device"] - at_s.get("MIGRATION pre-switchover", 1e12)) * 1000
        paused_ms = max(0.0, paused_ms)
        held_ms = 0.0 if way == "floor" else max(0.0, at_s["released"] - resumed_s) * 1000
        downtime_ms = float(str(status.read("downtime", anything)))
        return Cost(
            rate, way, downtime_ms - paused_ms, paused_ms + held_ms,
            result.report.rounds[-1].pages,
            {name: (at - at_s["STOP"]) * 1000 for name, at in sorted(at_s.items(), key=_second)},
        )  # fmt: skip

    async def _move(
        self, way: str, there: BesideHost, own: ControlClient, source: _Moments
    ) -> MigrationResult:
        control, vmm_uri = self.here.control, there.vmm_uri
        tags = MigrationRequest(there.tags_uri, settings=_SETTINGS)
        match way:
            case "other":
                await start_migration(control, tags)
                await own.execute("migrate", {"uri": vmm_uri})
                return await await_migration(control, _nothing)
            case "floor":
                answerer = await asyncio.to_thread(_Answerer, self._own(self.here, "floor"))
                answerer.start()
                await own.execute("migrate", {"uri": vmm_uri})
                await source.when("MIGRATION completed")
                answerer.close()
                return await migrate_vm(control, tags, _nothing)
        request = replace(tags, vmm_uri=vmm_uri, switchover=Switchover(way))
        return await migrate_vm(control, request, _nothing)


def _second(pair: tuple[str, float]) -> float:
    return pair[1]


async def _measure(rate: int, options: argparse.Namespace, show: Callable[[Cost], None]) -> None:
    guest = QemuGuest(_VMM / "qemu", _VMM / "Image", _VMM / "initrd", knobs=f"mib=8 rate={rate}")
    with tempfile.TemporaryDirectory() as folder:
        row = _Row(guest, Path(folder), options.bandwidth)
        try:
            await row.here.wait_for_reports(2, _WAIT_S)
            for _ in range(options.migrations):
                for way in options.ways:
                    show(await row.move(rate, way))
        finally:
            row.here.stop()


def _summary(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.0f} ({min(values):.0f} to {max(values):.0f})"


def _print_way(way: str, costs: Sequence[Cost]) -> None:
    own, tags = [each.own_ms for each in costs], [each.tags_ms for each in costs]
    ratio = statistics.median(tags) / statistics.median(own)
    print(
        f"  {way:8} own {_summary(own)} ms, tags add {_summary(tags)} ms, ratio {ratio:.2f}, ",
        end="",
    )
    print(f"pages left {_summary([float(each.pages_left) for each in costs])}")


def _print_steps(way: str, costs: Sequence[Cost]) -> None:
    """Print when the steps of the median migration were."""
    names = [name for name in costs[-1].steps_ms if all(name in each.steps_ms for each in costs)]
    medians = {name: statistics.median(each.steps_ms[name] for each in costs) for name in names}
    print(f"  {way}, ms since the guest's stop, medians:")
    for name, at_ms in sorted(medians.items(), key=_second):
        print(f"    {at_ms:8.1f}  {name}")


def _print_rate(rate: int, costs: Sequence[Cost], *, steps: bool) -> None:
    print(f"{rate} granules changed per second")
    for way in _WAYS:
        chosen = [each for each in costs if (each.rate, each.way) == (rate, way)]
        if chosen:
            _print_way(way, chosen)
            if steps:
                _print_steps(way, chosen)


def _words(text: str) -> list[str]:
    return text.split(",")


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rates", type=_words, default=["500"], help="granules per second: N,N")
    parser.add_argument("--ways", type=_words, default=list(_WAYS), help=",".join(_WAYS))
    parser.add_argument("--migrations", type=int, default=5, help="in each way, at each rate")
    parser.add_argument("--bandwidth", type=int, default=134, help="of QEMU's stream, in MB/s")
    parser.add_argument("--steps", action="store_true", help="print when each step was")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if not set(options.ways) <= set(_WAYS):
        parser.error(f"--ways: some of {','.join(_WAYS)}")
    costs: list[Cost] = []

    def show(cost: Cost) -> None:
        costs.append(cost)
        print(cost, file=sys.stderr, flush=True)

    for rate in map(int, options.rates):
        asyncio.run(_measure(rate, options, show))
        if not options.json:
            _print_rate(rate, costs, steps=options.steps)
    if options.json:
        print(json.dumps([asdict(cost) for cost in costs]))


if __name__ == "__main__":
    main()
