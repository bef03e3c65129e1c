"""Disks of a VM that moves: their locks change hands around COMMIT, or the VM stays."""

import errno
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tagalong.devices import DiskBacking, InlineWork, VirtioBackings, VirtioDevices
from tagalong.devices.virtio.image import Image
from tagalong.errors import HostError, MachineMismatchError, MigrationError
from tagalong.machine import DEFAULT_CONSOLE, Machine, MachineDescription, RunState, register_ids
from tagalong.machine.cpu_match import STRICT
from tagalong.soft import SoftMachine
from tests.support.move import move

LOOP = 0x1400_0000  # b .
SECTORS = 64


@dataclass
class Site:
    """A VM with one disk, and what builds its destination; both have the same image."""

    image: Path
    built: list[SoftMachine] = field(default_factory=list)
    before_resume: Callable[[SoftMachine], None] = lambda _: None

    def __post_init__(self) -> None:
        self.image.write_bytes(bytes(512 * SECTORS))
        self.backings = VirtioBackings(disks={"disk0": DiskBacking(self.image)})
        self.machine = SoftMachine.create(
            ram_bytes=1 << 20,
            devices=(DEFAULT_CONSOLE, *self.backings.describe()),
            models=VirtioDevices(self.backings, InlineWork).models(),
        )
        self.machine.memory.write(0x4000_0000, LOOP.to_bytes(4, "little"))
        self.machine.vcpus[0].set_register(register_ids.PC, 0x4000_0000)
        self.machine.resume()

    def build(self, description: MachineDescription) -> SoftMachine:
        machine = SoftMachine.from_description(
            description, models=VirtioDevices(self.backings, InlineWork).models(), policy=STRICT
        )
        self.built.append(machine)
        self.before_resume(machine)
        return machine

    def is_free(self) -> bool:
        """Return whether a third process could write the image."""
        third = Image(self.image, "third", read_only=False)
        try:
            third.activate()
        except HostError:
            return False
        finally:
            third.close()
        return True


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "disk.img")


def runs_here(machine: Machine) -> bool:
    return machine.run_state is RunState.RUNNING


def test_lock_of_a_disk_goes_with_the_vm(site: Site) -> None:
    held_at_the_source = not site.is_free()

    arrived = move(site.machine, site.build)

    assert held_at_the_source
    assert (runs_here(site.machine), runs_here(arrived)) == (False, True)
    assert not site.is_free()
    site.machine.close()
    assert not site.is_free()
    arrived.close()
    assert site.is_free()


def test_lock_of_a_paused_vm_s_disk_goes_with_it(site: Site) -> None:
    site.machine.pause()

    arrived = move(site.machine, site.build)

    assert not runs_here(arrived)
    site.machine.close()
    assert not site.is_free()
    arrived.close()


def test_disk_that_cannot_be_flushed_keeps_the_vm_here(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Image) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Image, "flush", fail)

    with pytest.raises(MigrationError, match=r"cannot bring image .* to the disk: Input/output"):
        move(site.machine, site.build)

    monkeypatch.undo()
    assert runs_here(site.machine)
    assert [each.run_state for each in site.built] == [RunState.PAUSED]
    assert not site.is_free()
    site.machine.close()


def test_destination_that_cannot_lock_a_disk_gives_the_vm_back(site: Site) -> None:
    def refuse() -> None:
        raise HostError("image of disk 'disk0' is in use")

    def make_unable(machine: SoftMachine) -> None:
        machine.activate = refuse  # type: ignore[method-assign]

    site.before_resume = make_unable

    with pytest.raises(MigrationError, match="disk 'disk0' is in use"):
        move(site.machine, site.build)

    assert runs_here(site.machine)
    assert not site.is_free()
    site.machine.close()


def test_source_whose_disk_a_third_process_took_keeps_the_vm_paused(site: Site) -> None:
    third = Image(site.image, "third", read_only=False)

    def make_too_late(machine: SoftMachine) -> None:
        own = machine.activate

        def activate() -> None:
            third.activate()  # in the moment in which neither end has the lock
            own()

        machine.activate = activate  # type: ignore[method-assign]

    site.before_resume = make_too_late

    with pytest.raises(MigrationError, match="is in use by another process") as caught:
        move(site.machine, site.build)

    assert site.machine.run_state is RunState.PAUSED
    assert "the guest could not be resumed: image" in "".join(caught.value.__notes__)
    third.close()
    site.machine.resume()
    assert runs_here(site.machine)
    assert not site.is_free()
    site.machine.close()


def test_destination_without_the_disk_is_refused_before_the_guest_stops(site: Site) -> None:
    pauses: list[str] = []
    site.machine.pause = lambda: pauses.append("pause")  # type: ignore[method-assign]
    site.backings = VirtioBackings()

    with pytest.raises(MachineMismatchError, match="the VM has disk 'disk0': give it as --disk"):
        move(site.machine, site.build)

    assert (runs_here(site.machine), pauses) == (True, [])
    site.machine.close()


def test_machine_whose_disk_is_in_use_does_not_run(site: Site) -> None:
    second = site.build(site.machine.description)

    with pytest.raises(HostError, match=r"image .* of disk 'disk0' is in use by another process"):
        second.resume()

    assert second.run_state is RunState.PAUSED
    second.close()
    site.machine.close()
