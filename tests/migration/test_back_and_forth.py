"""One guest, many migrations in a row, each into a new process, always under load.

The guest checks its own memory and tags all the time; every migration compares the digests
of both ends before it commits. The processes alternate between two control sockets, as a VM
does that is moved back and forth between two hosts.
"""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tagalong.migrate import MigrationReport
from tagalong.qapi.migration import MigrationRequest
from tagalong.studies.demo.process import VmProcess, start

MIGRATIONS = 8
VCPUS = 2
GUEST = ("--guest", "churn", "--guest-args", "working-set=4M report=4000", "--ram", "32M")


async def incoming_uri(vm: VmProcess) -> str:
    async with vm.client() as client:
        address = (await client.migration()).socket_address
    assert address is not None
    return address.uri


async def migrate(source: VmProcess, destination: VmProcess) -> MigrationReport:
    request = MigrationRequest(uri=await incoming_uri(destination), verify=True, drop_tags=False)
    async with source.client() as client:
        return (await client.migrate(request, lambda _: None)).report


async def progress_on(vm: VmProcess) -> None:
    async with asyncio.timeout(200):
        await vm.log.wait_until(lambda log: log.reports(VCPUS) >= 1 or bool(log.failures))


async def travel(folder: Path, migrations: int) -> tuple[list[MigrationReport], list[int]]:
    """Move the guest on and on; return each report and each stay's operations so far."""
    reports, operations = [], []
    async with AsyncExitStack() as stack:
        current = await stack.enter_async_context(
            start("vm0", folder / "0", (*GUEST, "--vcpus", str(VCPUS)))
        )
        await progress_on(current)
        for hop in range(1, migrations + 1):
            destination = await stack.enter_async_context(
                start(f"vm{hop}", folder / f"{hop % 2}-{hop}", ("--incoming", "tcp:127.0.0.1:0"))
            )
            reports.append(await migrate(current, destination))
            await current.stop()
            assert not current.log.failures
            await progress_on(destination)
            assert not destination.log.failures, f"migration {hop}"
            operations.append(destination.log.progress().operations)
            current = destination
    return reports, operations


@pytest.mark.timeout(600)
def test_migrations_in_a_row_under_churn_guest_keeps_its_invariants(tmp_path: Path) -> None:
    reports, operations = asyncio.run(travel(tmp_path, MIGRATIONS))

    assert len(reports) == MIGRATIONS
    assert all(report.verified for report in reports)
    assert all(each.tag_bytes_wire > 0 for report in reports for each in report.rounds[:1])
    assert operations == sorted(operations)
    assert operations[-1] > operations[0]
