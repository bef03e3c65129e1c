"""The demo: two processes, one guest, moved from one to the other while it runs.

    source                                     destination
    `tagalong run ...`                         `tagalong run --incoming tcp:127.0.0.1:0`
      guest reports progress
                      ---- migrate, tags included, digests compared ---->
      ends                                       guest reports further progress

The guest checks its own tags all the time and prints FAIL at the first broken invariant. So the
proof is what the guest prints at the destination, not what tagalong reports.
"""

import asyncio
import tempfile
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from tagalong import access
from tagalong.errors import MachineError
from tagalong.migrate import MigrationReport
from tagalong.qapi.census import TagCensus
from tagalong.qapi.migration import MigrationInfo, MigrationRequest
from tagalong.qapi.settings import MigrationSettings
from tagalong.studies.demo.guest_log import GuestLog
from tagalong.studies.demo.guests import DemoGuest
from tagalong.studies.demo.process import VmProcess, start
from tagalong.studies.demo.report import DemoReport
from tagalong.vmm.machine_names import AUTO

# How many progress lines each reporter of the guest has to print before and after the migration.
_REPORTS_BEFORE = 2
_REPORTS_AFTER = 3


@dataclass(frozen=True)
class DemoOptions:
    """The options of `tagalong demo`. `ram_bytes`: None is what the guest needs."""

    guest: DemoGuest
    ram_bytes: int | None
    vcpu_count: int
    max_downtime_ms: int
    drop_tags: bool = False
    machine: str = AUTO
    access: str = access.AUTO


@dataclass(frozen=True)
class DemoObserver:
    """Called with the title of each step, and with the migration's progress."""

    step: Callable[[str], None]
    progress: Callable[[MigrationInfo], None]


async def run_demo(options: DemoOptions, observer: DemoObserver) -> DemoReport:
    """Run the demo and report it.

    Raises the error of the step that failed. Both processes have ended when this returns, raises
    or is cancelled.
    """
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tagalong-")))
        observer.step("starting two processes: a guest at the source, an empty destination")
        source = await stack.enter_async_context(
            start("source", folder / "a", _source_options(options))
        )
        destination = await stack.enter_async_context(
            start("destination", folder / "b", _destination_options(options))
        )
        await _wait_for_progress(source, options, _REPORTS_BEFORE)
        observer.step("the guest runs; migrating it")
        migration = await _migrate(source, destination, options, observer)
        census = await _count_tags(source)
        await source.stop()
        observer.step("the guest runs at the destination; waiting for what it prints there")
        await _wait_for_progress(destination, options, _REPORTS_AFTER, more_than=source.log)
        await destination.stop()
        return DemoReport(
            tags_dropped=options.drop_tags,
            migration=migration,
            granules=census.granules,
            tagged_granules=census.tagged_granules,
            before=source.log.progress(),
            after=destination.log.progress(),
            failures=tuple(source.log.failures + destination.log.failures),
        )


def _source_options(options: DemoOptions) -> tuple[str, ...]:
    return (
        *options.guest.options,
        "--ram", str(options.ram_bytes or options.guest.default_ram_bytes),
        "--vcpus", str(options.vcpu_count),
        "--machine", options.machine,
        "--access", options.access,
    )  # fmt: skip


def _destination_options(options: DemoOptions) -> tuple[str, ...]:
    return (
        "--incoming", "tcp:127.0.0.1:0",
        "--machine", options.machine,
        "--access", options.access,
    )  # fmt: skip


async def _migrate(
    source: VmProcess, destination: VmProcess, options: DemoOptions, observer: DemoObserver
) -> MigrationReport:
    # Without tags the digests cannot be equal, and the guest is to notice: compare none.
    request = MigrationRequest(
        uri=await _incoming_uri(destination),
        # A host may be too slow to keep up with the guest, as an emulated one is: throttle it.
        settings=MigrationSettings(downtime_limit=options.max_downtime_ms, auto_converge=True),
        verify=not options.drop_tags,
        drop_tags=options.drop_tags,
    )
    async with source.client() as client:
        result = await client.migrate(request, observer.progress)
    return result.report


async def _incoming_uri(destination: VmProcess) -> str:
    async with destination.client() as client:
        info = await client.migration()
    if info.socket_address is None:
        raise MachineError("the destination does not report the address at which it waits")
    return info.socket_address.uri


async def _count_tags(source: VmProcess) -> TagCensus:
    """Count the tags in the source's copy: the guest as it was when it left."""
    async with source.client() as client:
        return await client.count_tags()


async def _wait_for_progress(
    vm: VmProcess, options: DemoOptions, reports: int, more_than: GuestLog | None = None
) -> None:
    """Return when every reporter has reported, or the guest has found a broken invariant."""
    before = more_than.progress().operations if more_than is not None else 0

    def enough(log: GuestLog) -> bool:
        enough_lines = log.reports(options.guest.reporters) >= reports
        return (enough_lines and log.progress().operations > before) or bool(log.failures)

    timeout_s = options.guest.start_timeout_s
    try:
        async with asyncio.timeout(timeout_s):
            await vm.log.wait_until(enough)
    except TimeoutError as error:
        raise MachineError(
            f"the guest at the {vm.name} reported no progress within {timeout_s:.0f} s"
        ) from error
    if not enough(vm.log):
        raise await vm.ended_early()
