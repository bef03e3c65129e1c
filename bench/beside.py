"""Measure what tags add to QEMU's downtime, inside the lab: python -m bench.beside.

    tagalong lab run --with-vmm --ram 4G -- python3 -m bench.beside [--rate 500]

A Linux guest on KVM changes tags at a rate: so many granules per second, at random among 8 MiB. It
moves from one QEMU to the next on the same host. `driven`: tagalong drives, and QEMU waits with
its guest stopped for the last tags, which is what they add. `own`: the bench drives QEMU, whose
hand-over the last tags run beside; they add the time for which the guest is held back at its
destination. Both by the events of one host's clock; medians, and the least and the most.
"""

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from tagalong.control.client import connect
from tagalong.control.migration import await_migration, migrate_vm, start_migration
from tagalong.qapi.events import VmEvent
from tagalong.qapi.migration import MigrationInfo, MigrationRequest
from tagalong.qapi.settings import MigrationSettings
from tagalong.studies.beside import QemuGuest
from tagalong.studies.beside.host import BesideHost

_VMM = Path("/opt/vmm")
_WAIT_S = 120.0
_POLL_S = 0.02
# The emulated host is slow, and no limit is to decide when the guest is stopped.
_SETTINGS = MigrationSettings(downtime_limit=60_000)


@dataclass(frozen=True)
class Cost:
    """One migration: QEMU's own downtime, what the tags added, pages left when it stopped."""

    own_ms: float
    tags_ms: float
    pages_left: int


class _Moments:
    """When events of a QMP socket came, by name and status; the first of each."""

    def __init__(self) -> None:
        self._ms: dict[str, float] = {}

    def note(self, event: VmEvent) -> None:
        name = f"{event.name} {event.data.get('status', '')}".strip()
        self._ms.setdefault(name, event.time_s * 1000)

    async def when(self, name: str) -> float:
        """Return when it came, in ms; wait for it."""
        async with asyncio.timeout(_WAIT_S):
            while name not in self._ms:
                await asyncio.sleep(_POLL_S)
        return self._ms[name]


@asynccontextmanager
async def _moments(control: Path) -> AsyncIterator[_Moments]:
    moments = _Moments()
    async with connect(control) as client:
        if control.suffix == ".own":
            events = {"capability": "events", "state": True}
            await client.execute("migrate-set-capabilities", {"capabilities": [events]})

        async def follow() -> None:
            async for event in client.events():
                moments.note(event)

        task = asyncio.create_task(follow())
        try:
            yield moments
        finally:
            task.cancel()


def _nothing(_: MigrationInfo) -> None:
    """Show no progress."""


class _Row:
    """A guest that moves again and again."""

    def __init__(self, guest: QemuGuest, folder: Path) -> None:
        self._guest = guest
        self._folder = folder
        self._count = 0
        self.here = self._host(awaits=False)

    def _host(self, *, awaits: bool) -> BesideHost:
        name = f"host-{self._count}"
        self._count += 1
        own = ["-qmp", f"unix:{self._folder / name}.own,server=on,wait=off"]
        return BesideHost(self._guest, self._folder, name, awaits=awaits, more=own)

    def _own(self, host: BesideHost) -> Path:
        return self._folder / f"{host.name}.own"

    async def move(self, *, is_driven: bool) -> Cost:
        """Migrate once, and require that no granule is wrong."""
        before, there = self.here, self._host(awaits=True)
        try:
            await there.wait_until(
                lambda: "waiting for tags" in there.messages, "waited for tags", _WAIT_S
            )
            cost = await (self._driven(there) if is_driven else self._beside(there))
            self.here = there
            before.stop()
            await there.wait_for_reports(2, _WAIT_S)
        except BaseException:
            there.stop()
            raise
        if there.failures:
            raise SystemExit("\n".join(there.failures))
        return cost

    async def _driven(self, there: BesideHost) -> Cost:
        request = MigrationRequest(there.tags_uri, settings=_SETTINGS, vmm_uri=there.vmm_uri)
        result = await migrate_vm(self.here.control, request, _nothing)
        assert result.vmm is not None
        return Cost(result.vmm.own_downtime_ms, result.vmm.tags_ms, result.report.rounds[-1].pages)

    async def _beside(self, there: BesideHost) -> Cost:
        request = MigrationRequest(there.tags_uri, settings=_SETTINGS)
        await start_migration(self.here.control, request)
        async with AsyncExitStack() as stack:
            own = await stack.enter_async_context(connect(self._own(self.here)))
            source = await stack.enter_async_context(_moments(self.here.control))
            resumed = await stack.enter_async_context(_moments(self._own(there)))
            tags = await stack.enter_async_context(_moments(there.control))
            await own.execute("migrate", {"uri": there.vmm_uri})
            stopped_ms, resumed_ms = await source.when("STOP"), await resumed.when("RESUME")
            released_ms = await tags.when("MIGRATION completed")
            result = await await_migration(self.here.control, _nothing)
        return Cost(
            resumed_ms - stopped_ms,
            max(0.0, released_ms - resumed_ms),
            result.report.rounds[-1].pages,
        )


async def _measure(rate: int, migrations: int, *, is_driven: bool) -> list[Cost]:
    guest = QemuGuest(_VMM / "qemu", _VMM / "Image", _VMM / "initrd", knobs=f"mib=8 rate={rate}")
    with tempfile.TemporaryDirectory() as folder:
        row = _Row(guest, Path(folder))
        try:
            await row.here.wait_for_reports(2, _WAIT_S)
            costs = []
            for _ in range(migrations):
                costs.append(await row.move(is_driven=is_driven))
                print(costs[-1], file=sys.stderr, flush=True)
            return costs
        finally:
            row.here.stop()


def _summary(values: list[float]) -> str:
    return f"{statistics.median(values):.0f} ({min(values):.0f} to {max(values):.0f})"


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rate", type=int, default=500, help="granules changed per second")
    parser.add_argument("--migrations", type=int, default=5)
    parser.add_argument("--own", action="store_true", help="drive QEMU by its own monitor")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    costs = asyncio.run(_measure(options.rate, options.migrations, is_driven=not options.own))
    if options.json:
        print(json.dumps([asdict(cost) for cost in costs]))
        return
    own, tags = [each.own_ms for each in costs], [each.tags_ms for each in costs]
    print(f"{len(costs)} migrations, {options.rate} granules changed per second")
    print(f"QEMU's own downtime  {_summary(own)} ms")
    print(f"tags add             {_summary(tags)} ms")
    print(f"ratio of medians     {statistics.median(tags) / statistics.median(own):.2f}")
    print(f"pages left           {_summary([float(each.pages_left) for each in costs])}")


if __name__ == "__main__":
    main()
