"""Live migration under churn, between two machines and between two processes."""

import json
from pathlib import Path

import pytest

from tagalong.migrate import MachineBuilder, MigrationOptions
from tests.support.move import move
from tests.support.running_guest import Boot
from tests.support.vm_processes import VmProcess, tagalong, vm_process

# A guest that works hard dirties memory as fast as an emulated host moves it.
CALM = "working-set=1M write-rate=10 report=256"


def test_migration_of_a_paused_guest_with_two_vcpus_goes_on(
    boot: Boot, from_description: MachineBuilder
) -> None:
    guest = boot("churn", CALM, vcpu_count=2)
    guest.machine.resume()
    guest.wait_for("progress", 2)
    guest.machine.pause()
    before = guest.machine.save_state()

    arrived = move(guest.machine, from_description, MigrationOptions(verify=True))

    assert [vcpu.power for vcpu in arrived.save_state().vcpus] == [v.power for v in before.vcpus]
    assert arrived.save_state() == before


@pytest.mark.parametrize("vcpu_count", [2])
def test_live_migration_between_processes_guest_keeps_its_invariants(
    machine_name: str, tmp_path: Path, vcpu_count: int
) -> None:
    churn = ("--guest", "churn", "--guest-args", CALM, "--ram", "32M")
    with (
        vm_process(
            tmp_path, "a", *churn, "--machine", machine_name, "--vcpus", str(vcpu_count)
        ) as source,
        vm_process(tmp_path, "b", *incoming(machine_name)) as target,
    ):
        source.wait_for_console("churn: progress", times=2)

        report = migrate(source, target, "--verify", "--max-downtime", "2000")

        assert report["verified"] is True
        assert report["was_running"] is True
        target.wait_for_console("churn: progress", times=3)
        assert "FAIL" not in source.console + target.console


def test_live_migration_without_tags_guest_notices(machine_name: str, tmp_path: Path) -> None:
    churn = ("--guest", "churn", "--guest-args", CALM, "--ram", "32M")
    with (
        vm_process(tmp_path, "a", *churn, "--machine", machine_name) as source,
        vm_process(tmp_path, "b", *incoming(machine_name)) as target,
    ):
        source.wait_for_console("churn: progress", times=2)

        migrate(source, target, "--drop-tags", "--max-downtime", "2000")

        target.wait_for_console("churn: FAIL")


def incoming(machine: str, *more: str) -> tuple[str, ...]:
    return ("--incoming", "tcp:127.0.0.1:0", "--machine", machine, *more)


def migrate(source: VmProcess, target: VmProcess, *options: str) -> dict[str, object]:
    """Migrate with the command and return its report."""
    result = tagalong(
        "migrate", str(source.control), target.incoming_uri(), "--json", *options, timeout_s=240
    )
    assert result.returncode == 0, result.stderr + target.messages
    report = json.loads(result.stdout)
    assert isinstance(report, dict)
    return report
