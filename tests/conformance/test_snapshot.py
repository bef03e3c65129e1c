"""Snapshots of real guests: they continue where they were, and never change the file."""

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np
import pytest

from tagalong.core import Space, open_core
from tagalong.errors import HostError
from tagalong.machine import Machine, MachineDescription
from tagalong.machine.cpu_match import STRICT, CpuPolicy
from tagalong.memory import Gpa, RegionSource
from tagalong.migrate import MigrationOptions
from tagalong.mte.tags import unpack
from tagalong.snapshot import Restored, SaveOptions, restore, save
from tests.conformance.conftest import KINDS
from tests.support.move import move
from tests.support.running_guest import Boot, Listener, RunningGuest


class Restore(Protocol):
    def __call__(
        self, path: Path, *, on: str = ..., policy: CpuPolicy = ...
    ) -> tuple[Restored, Listener]: ...


@pytest.fixture
def revive(machine_name: str, opened: list[Machine]) -> Restore:
    """Return a function that restores a snapshot; the machine is closed at the end."""

    def start(
        path: Path, *, on: str = machine_name, policy: CpuPolicy = STRICT
    ) -> tuple[Restored, Listener]:
        listener = Listener()

        def build(
            description: MachineDescription, sources: Sequence[RegionSource] | None
        ) -> Machine:
            return KINDS[on].from_description(
                description, console=listener.hear, policy=policy, sources=sources
            )

        restored = restore(path, build)
        opened.append(restored.machine)
        return restored, listener

    return start


def contents(machine: Machine) -> list[tuple[bytes, bytes]]:
    """Return data and tags of each region; a page that was never used is not touched."""
    return [
        (
            region.read_data(0, region.size_bytes).tobytes(),
            machine.read_tags(region.gpa, region.size_bytes).tobytes(),
        )
        for region in machine.memory.regions
    ]


def churning(boot: Boot, vcpu_count: int = 2) -> RunningGuest:
    guest = boot("churn", "working-set=512K report=512", vcpu_count=vcpu_count)
    guest.machine.resume()
    guest.wait_for("progress", 2)
    return guest


def save_churning(boot: Boot, path: Path) -> None:
    """Save a guest that runs; it is stopped afterwards, and leaves the host to others."""
    guest = churning(boot)
    save(guest.machine, path)
    guest.machine.pause()


def assert_goes_on(machine: Machine, listener: Listener) -> None:
    machine.resume()
    for vcpu in range(2):
        listener.wait_for(f"progress vcpu={vcpu} ", 1, 60)
    machine.pause()
    assert not listener.lines_with("FAIL")


@pytest.mark.parametrize("live", [False, True], ids=["stopped", "live"])
def test_churn_goes_on_here_and_in_the_restored_machine(
    boot: Boot, revive: Restore, tmp_path: Path, live: bool
) -> None:
    guest = churning(boot)

    report = save(guest.machine, tmp_path / "vm.core", SaveOptions(live=live))

    assert report.was_running
    assert report.downtime_s > 0
    assert (report.rounds > 1) is live
    count = len(guest.lines_with("progress"))
    guest.wait_for("progress", count + 1)
    guest.machine.pause()
    assert not guest.lines_with("FAIL")
    restored, listener = revive(tmp_path / "vm.core")
    assert restored.was_running
    assert_goes_on(restored.machine, listener)


def test_restored_machine_is_migrated_on(
    boot: Boot, revive: Restore, machine_name: str, opened: list[Machine], tmp_path: Path
) -> None:
    save_churning(boot, tmp_path / "vm.core")
    restored, _ = revive(tmp_path / "vm.core")
    arriving = Listener()

    def build(description: MachineDescription) -> Machine:
        return KINDS[machine_name].from_description(description, console=arriving.hear)

    arrived = move(restored.machine, build, MigrationOptions(channels=2, verify=True))
    opened.append(arrived)

    assert contents(arrived) == contents(restored.machine)
    assert_goes_on(arrived, arriving)


def test_snapshot_of_a_paused_guest_restores_the_same_memory_tags_and_state(
    boot: Boot, revive: Restore, tmp_path: Path
) -> None:
    guest = churning(boot)
    guest.machine.pause()

    save(guest.machine, tmp_path / "vm.core")
    restored, _ = revive(tmp_path / "vm.core")

    assert contents(restored.machine) == contents(guest.machine)
    mine, theirs = guest.machine.save_state(), restored.machine.save_state()
    assert mine.devices == theirs.devices
    assert [v.power for v in mine.vcpus] == [v.power for v in theirs.vcpus]
    assert not restored.was_running


def test_restored_guest_never_changes_the_file(boot: Boot, revive: Restore, tmp_path: Path) -> None:
    path = tmp_path / "vm.core"
    save_churning(boot, path)
    before, blocks = path.read_bytes(), path.stat().st_blocks

    restored, listener = revive(path)
    assert_goes_on(restored.machine, listener)

    assert path.read_bytes() == before
    assert path.stat().st_blocks == blocks


def test_two_machines_of_one_snapshot_do_not_see_each_other(
    boot: Boot, revive: Restore, tmp_path: Path
) -> None:
    path = tmp_path / "vm.core"
    save_churning(boot, path)

    one, first = revive(path)
    other, second = revive(path)

    assert_goes_on(one.machine, first)
    path.unlink()  # the mapping keeps the file
    assert_goes_on(other.machine, second)


def test_snapshot_of_a_restored_machine_restores(
    boot: Boot, revive: Restore, tmp_path: Path
) -> None:
    save_churning(boot, tmp_path / "first.core")
    restored, listener = revive(tmp_path / "first.core")
    assert_goes_on(restored.machine, listener)

    save(restored.machine, tmp_path / "second.core", SaveOptions(live=True))
    again, said = revive(tmp_path / "second.core")

    assert contents(again.machine) == contents(restored.machine)
    assert_goes_on(again.machine, said)


def test_compressed_snapshot_restores(boot: Boot, revive: Restore, tmp_path: Path) -> None:
    guest = churning(boot)
    guest.machine.pause()
    report = save(guest.machine, tmp_path / "vm.zst", SaveOptions(compress=True))

    restored, listener = revive(tmp_path / "vm.zst")

    assert report.compressed
    assert contents(restored.machine) == contents(guest.machine)
    assert_goes_on(restored.machine, listener)
    assert list(tmp_path.iterdir()) == [tmp_path / "vm.zst"]


def test_restored_guest_s_data_are_mapped_and_not_copied(
    boot: Boot, revive: Restore, tmp_path: Path
) -> None:
    save_churning(boot, tmp_path / "vm.core")

    restored, _ = revive(tmp_path / "vm.core")

    # pytest's folder is on tmpfs in the lab, where KVM takes private mappings of it.
    assert restored.copied_bytes == 0
    assert restored.machine.memory.regions[0].has_file_data


@pytest.mark.parametrize("space", [Space.KERNEL, Space.USER])
def test_dump_of_virtual_addresses_has_what_the_guest_s_own_pointers_point_to(
    boot: Boot, tmp_path: Path, space: Space
) -> None:
    guest = boot("paged")
    guest.machine.resume()
    guest.wait_for("paged: granule", 1)
    said = dict(part.split("=") for part in guest.lines[0].split()[1:])
    window, pool, page = int(said["window"], 0), int(said["pool"], 0), int(said["granule"])

    report = save(guest.machine, tmp_path / "vm.core", SaveOptions(space=space))

    with open_core(tmp_path / "vm.core") as core:
        first = window if space is Space.KERNEL else pool + 7 * page
        tags = unpack(core.tags(first, page))
        words = np.frombuffer(core.data(first, page).tobytes(), "<u8")[::2]
        assert np.array_equal(tags, np.arange(page // 16) % 16)
        assert np.array_equal(words >> np.uint64(56) & np.uint64(0xF), tags)
        pointer = int(words[5])  # the guest's own, with its tag
        assert core.data(pointer if space is Space.KERNEL else first + 80, 8).tobytes() == (
            pointer.to_bytes(8, "little")
        )
    assert report.segments == (3 if space is Space.KERNEL else 1)


def test_dump_of_untagged_mapping_has_no_tags_for_it(boot: Boot, tmp_path: Path) -> None:
    guest = boot("paged")
    guest.machine.resume()
    guest.wait_for("paged: granule", 1)

    save(guest.machine, tmp_path / "vm.core", SaveOptions(space=Space.KERNEL))

    with open_core(tmp_path / "vm.core") as core:
        tagged = {segment.address for segment in core.tag_segments}
        untagged = [s for s in core.loads if s.address not in tagged]
    assert [s.size_bytes for s in untagged] == [4096]


def test_machine_of_snapshot_has_its_registers_in_the_core(boot: Boot, tmp_path: Path) -> None:
    guest = churning(boot)
    guest.machine.pause()

    save(guest.machine, tmp_path / "vm.core")

    with open_core(tmp_path / "vm.core") as core:
        assert core.machine is not None
        assert core.machine.state == guest.machine.save_state()
        assert core.machine.description == guest.machine.description


@contextmanager
def mounted(kind: str, where: Path, options: str = "rw") -> Iterator[Path]:
    where.mkdir()
    subprocess.run(["mount", "-t", kind, "-o", options, "none", where], check=True)
    try:
        yield where
    finally:
        subprocess.run(["umount", "-l", where], check=True)


@pytest.mark.lab
def test_snapshot_on_a_file_system_that_kvm_does_not_map_is_copied(
    boot: Boot, revive: Restore, tmp_path: Path
) -> None:
    guest = churning(boot)
    guest.machine.pause()
    with mounted("ramfs", tmp_path / "mnt") as folder:
        save(guest.machine, folder / "vm.core")
        restored, listener = revive(folder / "vm.core")

        # Before Linux 6.2 KVM takes a private mapping of any file.
        mapped = restored.machine.memory.regions[0].has_file_data
        assert (restored.copied_bytes == 0) is mapped
        assert mapped is (tuple(map(int, os.uname().release.split(".")[:2])) < (6, 2))
        assert contents(restored.machine) == contents(guest.machine)
        assert_goes_on(restored.machine, listener)


@pytest.mark.lab
@pytest.mark.parametrize(("source", "target"), [("soft", "kvm"), ("kvm", "soft")])
def test_snapshot_goes_across_the_machines(
    boot: Boot, revive: Restore, tmp_path: Path, source: str, target: str
) -> None:
    guest = boot("churn", "working-set=256K report=256", vcpu_count=2, on=source)
    guest.machine.resume()
    guest.wait_for("progress", 2, 120)
    told: list[str] = []
    save(guest.machine, tmp_path / "vm.core")
    guest.machine.pause()

    restored, listener = revive(
        tmp_path / "vm.core", on=target, policy=CpuPolicy(allow_mismatch=True, tell=told.append)
    )

    assert told
    assert_goes_on(restored.machine, listener)


def test_written_tags_are_in_the_core_and_zero_tags_are_holes(
    machine_name: str, opened: list[Machine], tmp_path: Path, page: int
) -> None:
    machine = KINDS[machine_name].create(ram_bytes=16 << 20)
    opened.append(machine)
    gpa = Gpa(machine.memory.regions[0].gpa + 0x10_0000)
    machine.write_tags(gpa, np.full(page // 32, 0x21, np.uint8))

    report = save(machine, tmp_path / "vm.core")

    with open_core(tmp_path / "vm.core") as core:
        assert core.tags(gpa, page).tolist() == [0x21] * (page // 32)
        assert not core.tags(gpa + page, page).any()
    assert report.disk_bytes < 1 << 16


@pytest.mark.lab
def test_snapshot_on_a_full_disk_leaves_the_older_one_and_the_guest_goes_on(
    boot: Boot, tmp_path: Path
) -> None:
    guest = churning(boot)
    with mounted("tmpfs", tmp_path / "mnt", "size=512k") as folder:
        (folder / "vm.core").write_bytes(b"an older one")

        with pytest.raises(HostError, match="No space left on device"):
            save(guest.machine, folder / "vm.core")

        assert (folder / "vm.core").read_bytes() == b"an older one"
        assert [each.name for each in folder.iterdir()] == ["vm.core"]
    count = len(guest.lines_with("progress"))
    guest.wait_for("progress", count + 1)
    assert not guest.lines_with("FAIL")
