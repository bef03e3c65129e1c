"""Migrations whose both ends touch guest RAM by one access strategy."""

from pathlib import Path

import numpy as np
import pytest

from tagalong.access import STRATEGIES
from tagalong.errors import HostError, UsageError
from tagalong.machine import AccessChoice, Machine
from tagalong.memory import Gpa
from tagalong.migrate import MachineBuilder, MigrationOptions
from tagalong.snapshot import save
from tests.conformance.test_migration import CALM, incoming, migrate
from tests.support.bare_program import Maker
from tests.support.move import move
from tests.support.running_guest import Boot
from tests.support.vm_processes import vm_process


def use_or_skip(machine: Machine, name: str) -> AccessChoice:
    """Use a strategy; skip the test where RAM is anonymous and the strategy needs two mappings."""
    try:
        return machine.use_access(name)
    except HostError as error:
        if name == "alias" and "is anonymous" in str(error):
            pytest.skip(str(error))
        raise


@pytest.mark.parametrize("name", STRATEGIES)
def test_migration_by_any_strategy_arrives_whole(
    boot: Boot, from_description: MachineBuilder, name: str
) -> None:
    guest = boot("churn", CALM)
    guest.machine.resume()
    guest.wait_for("progress", 1)
    guest.machine.pause()
    before = guest.machine.save_state()

    def build(*args: object, **options: object) -> Machine:
        machine: Machine = from_description(*args, **options)  # type: ignore[arg-type]
        machine.use_access(name)
        return machine

    chosen = use_or_skip(guest.machine, name)
    arrived = move(guest.machine, build, MigrationOptions(channels=2, verify=True))

    assert (chosen.name, chosen.reason) == (name, "asked for")
    assert arrived.save_state() == before
    region, other = guest.machine.memory.regions[0], arrived.memory.regions[0]
    assert arrived.use_access("auto").name == "ioctl"
    guest.machine.use_access("auto")
    for pages in np.array_split(region.populated_pages().pages(), 8):
        if pages.size:
            np.testing.assert_array_equal(
                arrived.read_page_tags(0, pages), guest.machine.read_page_tags(0, pages)
            )
            rows = np.empty((2, pages.size * region.page_size_bytes), np.uint8)
            region.read_pages_into(rows[0], pages)
            other.read_pages_into(rows[1], pages)
            np.testing.assert_array_equal(rows[0], rows[1])


@pytest.mark.parametrize("name", STRATEGIES)
def test_strategy_leaves_holes_alone(bare: Maker, name: str) -> None:
    machine = bare([]).machine
    region = machine.memory.regions[0]
    page = region.page_size_bytes
    before = region.populated_pages().pages().tolist()
    use_or_skip(machine, name)

    data = region.read_data(0, region.size_bytes)
    machine.memory.read(Gpa(region.end - 2 * page), 2 * page)

    assert data.any()
    assert region.populated_pages().pages().tolist() == before


def test_migrate_with_access_says_what_it_used(machine_name: str, tmp_path: Path) -> None:
    churn = ("--guest", "churn", "--guest-args", CALM, "--ram", "8M")
    with (
        vm_process(tmp_path, "a", *churn, "--machine", machine_name, "--access", "sp") as source,
        vm_process(tmp_path, "b", *incoming(machine_name), "--access", "tco") as target,
    ):
        source.wait_for_console("churn: progress", times=1)

        report = migrate(source, target, "--access", "kernel", "--verify", "--max-downtime", "5000")

        assert (report["access"], report["access_reason"]) == ("kernel", "asked for")
        target.wait_for_console("churn: progress", times=1)
        assert "tagalong: access: sp (asked for)\n" in source.messages
        assert "tagalong: access: tco (asked for)\n" in target.messages
        assert "FAIL" not in source.console + target.console


def test_strategy_that_is_none_is_refused(bare: Maker) -> None:
    with pytest.raises(
        UsageError, match="there is no access strategy 'x'; choose one of auto, ioctl, alias"
    ):
        bare([]).machine.use_access("x")


@pytest.mark.parametrize("name", STRATEGIES)
def test_dump_by_any_strategy_has_what_the_guest_has(boot: Boot, tmp_path: Path, name: str) -> None:
    guest = boot("churn", CALM)
    guest.machine.resume()
    guest.wait_for("progress", 1)
    guest.machine.pause()
    save(guest.machine, tmp_path / "before.core")

    use_or_skip(guest.machine, name)
    save(guest.machine, tmp_path / "by.core")

    guest.machine.use_access("auto")
    assert (tmp_path / "by.core").read_bytes() == (tmp_path / "before.core").read_bytes()
