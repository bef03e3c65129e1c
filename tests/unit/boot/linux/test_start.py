"""Kernels in a machine: what is where when vCPU 0 starts."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tagalong.boot.linux import (
    LINUX_CONSOLE,
    LinuxBoot,
    boot_linux,
    entropy_of,
    linux_device_tree,
    prepared_linux,
)
from tagalong.boot.linux.image import MAX_KERNEL_BYTES, KernelForm
from tagalong.errors import GuestImageError
from tagalong.machine import register_ids
from tagalong.memory import plane
from tagalong.soft import SoftMachine
from tests.support.fdt_reader import read_fdt
from tests.support.kernel_files import image

MIB = 1 << 20
BASE = 0x4000_0000
OF_4_KIB_ALONE = 0x0F00_0025


@pytest.fixture
def machine() -> Iterator[SoftMachine]:
    with SoftMachine.create(ram_bytes=64 * MIB, devices=(LINUX_CONSOLE,)) as made:
        yield made


@pytest.fixture
def kernel(tmp_path: Path) -> Path:
    path = tmp_path / "Image"
    path.write_bytes(image(image_size=8 * MIB))
    return path


def test_boot_linux_puts_everything_where_the_registers_say(
    machine: SoftMachine, kernel: Path, tmp_path: Path
) -> None:
    initrd = tmp_path / "initrd"
    initrd.write_bytes(os.urandom(5 * MIB + 3))
    boot = LinuxBoot(kernel, initrd, "console=ttyAMA0", entropy_of(3))

    form = boot_linux(machine, boot)

    vcpu, memory = machine.vcpus[0], machine.memory
    assert form is KernelForm.IMAGE
    assert memory.read(BASE, kernel.stat().st_size) == kernel.read_bytes()
    tree = linux_device_tree(machine.description, boot)
    x0 = vcpu.get_register(register_ids.x(0))
    assert memory.read(x0, len(tree)) == tree
    chosen = read_fdt(tree).at("chosen")
    (start,), (end,) = chosen.wide("linux,initrd-start"), chosen.wide("linux,initrd-end")
    assert memory.read(start, end - start) == initrd.read_bytes()
    assert chosen.properties["rng-seed"] + chosen.properties["kaslr-seed"] == entropy_of(3)
    assert [vcpu.get_register(register_ids.x(n)) for n in (1, 2, 3)] == [0, 0, 0]
    assert vcpu.get_register(register_ids.PC) == BASE
    assert vcpu.get_register(register_ids.PSTATE) == 0x3C5


def test_boot_linux_makes_no_more_huge_pages_than_a_kernel_can_fill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[int, int]] = []
    monkeypatch.setattr(
        plane, "allocate_huge_pages", lambda _fd, _memory, start, stop: made.append((start, stop))
    )
    kernel = tmp_path / "Image"
    kernel.write_bytes(image(image_size=1000 * MIB))
    with SoftMachine.create(ram_bytes=1 << 30, devices=(LINUX_CONSOLE,)) as machine:
        boot_linux(machine, LinuxBoot(kernel))

    assert made == [(0, MAX_KERNEL_BYTES)]


def test_boot_linux_without_a_disk_has_none_in_the_tree(machine: SoftMachine, kernel: Path) -> None:
    boot_linux(machine, LinuxBoot(kernel))

    tree = read_fdt(linux_device_tree(machine.description, LinuxBoot(kernel)))
    assert "linux,initrd-start" not in tree.at("chosen").properties


def test_entropy_of_a_seed_is_always_the_same_and_no_other_seeds() -> None:
    assert entropy_of(1) == entropy_of(1)
    assert len({entropy_of(seed) for seed in range(10)}) == 10


@pytest.mark.parametrize("size_kib", [16, 64])
def test_boot_linux_with_pages_that_the_cpu_lacks_is_refused(
    machine: SoftMachine, tmp_path: Path, size_kib: int
) -> None:
    path = tmp_path / "Image"
    path.write_bytes(image(flags={16: 4, 64: 6}[size_kib]))
    boot_linux(machine, LinuxBoot(path))
    machine.vcpus[0].set_register(register_ids.ID_AA64MMFR0_EL1, OF_4_KIB_ALONE)

    with pytest.raises(GuestImageError) as caught:
        boot_linux(machine, LinuxBoot(path))

    assert str(caught.value) == (
        f"kernel: it uses pages of {size_kib} KiB, which this machine's CPU does not have; give a "
        "kernel with another page size"
    )


def test_boot_linux_command_line_that_the_kernel_would_cut_is_refused(
    machine: SoftMachine, kernel: Path
) -> None:
    boot_linux(machine, LinuxBoot(kernel, command_line="x" * 2047))
    for line in ("x" * 2048, "a\0b"):
        with pytest.raises(GuestImageError, match="at most 2047 without NUL"):
            boot_linux(machine, LinuxBoot(kernel, command_line=line))
    with pytest.raises(GuestImageError, match="kernel command line is not UTF-8"):
        boot_linux(machine, LinuxBoot(kernel, command_line="\udcff"))


def test_boot_linux_of_what_is_no_regular_file_is_refused_at_once(
    machine: SoftMachine, kernel: Path, tmp_path: Path
) -> None:
    fifo, zeros = tmp_path / "fifo", tmp_path / "zeros"
    os.mkfifo(fifo)
    zeros.symlink_to("/dev/zero")
    for path in (fifo, zeros):
        with pytest.raises(GuestImageError) as caught:
            boot_linux(machine, LinuxBoot(path))
        assert str(caught.value) == (
            f"cannot read the kernel {path}: it is not a regular file; give a file"
        )
        with pytest.raises(GuestImageError) as caught:
            boot_linux(machine, LinuxBoot(kernel, path))
        assert str(caught.value) == (
            f"cannot read the initial RAM disk {path}: it is not a regular file; give a file"
        )


def test_boot_linux_of_empty_files_is_refused(
    machine: SoftMachine, kernel: Path, tmp_path: Path
) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    for what, boot in (
        ("kernel", LinuxBoot(empty)),
        ("initial RAM disk", LinuxBoot(kernel, empty)),
    ):
        with pytest.raises(GuestImageError) as caught:
            boot_linux(machine, boot)
        assert str(caught.value) == f"cannot read the {what} {empty}: it is empty"


def test_boot_linux_initrd_larger_than_ram_is_not_read(
    machine: SoftMachine, kernel: Path, tmp_path: Path
) -> None:
    initrd = tmp_path / "initrd"
    with initrd.open("wb") as file:
        file.truncate(64 * MIB + 1)

    with pytest.raises(GuestImageError) as caught:
        boot_linux(machine, LinuxBoot(kernel, initrd))

    assert str(caught.value) == (
        f"cannot read the initial RAM disk {initrd}: it has 67108865 bytes, and at most "
        "67108864 are read"
    )


def test_boot_linux_of_an_image_that_shrinks_meanwhile_says_so(
    machine: SoftMachine, kernel: Path
) -> None:
    kernel.write_bytes(image(image_size=8 * MIB) + bytes(MIB))

    with prepared_linux(machine.description, LinuxBoot(kernel)) as load:
        os.truncate(kernel, 4096)
        with pytest.raises(GuestImageError, match=r"Image: it was cut short while it was read"):
            load(machine)
