"""The device tree: what a machine's description says, in the words of the kernel's bindings."""

from dataclasses import replace

import pytest

from tagalong.boot.linux import (
    LINUX_CONSOLE,
    LINUX_GIC,
    LINUX_GPIO,
    LINUX_RTC,
    ChosenNode,
    device_tree,
)
from tagalong.errors import UsageError
from tagalong.machine import DeviceDescription, MachineDescription, RegionDescription
from tests.support.fdt_reader import ReadNode, read_fdt

DISK = DeviceDescription("disk", "virtio-blk", 0x0A00_0200, 0x200, 49, b"\1")
DESCRIPTION = MachineDescription(
    page_size_bytes=4096,
    vcpu_count=3,
    mte_version=3,
    regions=(RegionDescription(0x4000_0000, 5 << 30),),
    devices=(LINUX_CONSOLE, DISK),
    gic=LINUX_GIC,
)


def tree_of(description: MachineDescription, chosen: ChosenNode | None = None) -> ReadNode:
    return read_fdt(device_tree(description, chosen or ChosenNode()))


def test_device_tree_has_all_that_the_machine_has() -> None:
    root = tree_of(DESCRIPTION)

    assert [*root.children] == [
        "psci", "cpus", "memory@40000000", "intc@8000000", "timer", "apb-pclk", "pl011@9000000",
        "virtio_mmio@a000200", "aliases", "chosen",
    ]  # fmt: skip
    assert [*root.at("cpus").children] == ["cpu@0", "cpu@1", "cpu@2"]
    assert [root.at(f"cpus/cpu@{n}").cells("reg") for n in range(3)] == [(0,), (1,), (2,)]
    assert root.at("psci").texts("method") == ["hvc"]


def test_device_tree_memory_beyond_3_gib_is_one_range_of_64_bits() -> None:
    memory = tree_of(DESCRIPTION).at("memory@40000000")

    assert memory.wide("reg") == (0x4000_0000, 5 << 30)


def test_device_tree_every_region_has_a_node() -> None:
    regions = (RegionDescription(0x4000_0000, 1 << 30), RegionDescription(1 << 33, 1 << 20))

    root = tree_of(replace(DESCRIPTION, regions=regions))

    assert root.at("memory@200000000").wide("reg") == (1 << 33, 1 << 20)


def test_device_tree_interrupts_are_those_of_the_lines() -> None:
    root = tree_of(DESCRIPTION)

    gic = root.at("intc@8000000")
    assert gic.wide("reg") == (0x0800_0000, 0x1_0000, 0x080A_0000, 3 * 0x2_0000)
    assert root.cells("interrupt-parent") == gic.cells("phandle")
    assert root.at("pl011@9000000").cells("interrupts") == (0, 1, 4)
    assert root.at("virtio_mmio@a000200").cells("interrupts") == (0, 17, 4)
    timers = root.at("timer").cells("interrupts")
    assert timers == (1, 13, 4, 1, 14, 4, 1, 11, 4, 1, 10, 4)


def test_device_tree_uart_is_one_that_the_amba_bus_takes() -> None:
    root = tree_of(DESCRIPTION)

    uart = root.at("pl011@9000000")
    assert uart.texts("compatible") == ["arm,pl011", "arm,primecell"]
    assert uart.texts("clock-names") == ["uartclk", "apb_pclk"]
    assert uart.cells("clocks") == root.at("apb-pclk").cells("phandle") * 2
    assert root.at("chosen").texts("stdout-path") == ["/pl011@9000000"]
    assert root.at("aliases").texts("serial0") == ["/pl011@9000000"]


def test_device_tree_chosen_says_what_was_chosen() -> None:
    chosen = ChosenNode("console=ttyAMA0 ä", (0x4800_0000, 0x4800_1234), b"r" * 64, b"k" * 8)

    node = tree_of(DESCRIPTION, chosen).at("chosen")

    assert node.texts("bootargs") == ["console=ttyAMA0 ä"]
    assert node.wide("linux,initrd-start") == (0x4800_0000,)
    assert node.wide("linux,initrd-end") == (0x4800_1234,)
    assert (node.properties["rng-seed"], node.properties["kaslr-seed"]) == (b"r" * 64, b"k" * 8)


def test_device_tree_of_nothing_chosen_leaves_it_out() -> None:
    node = tree_of(replace(DESCRIPTION, devices=())).at("chosen")

    assert node.properties == {"bootargs": b"\0"}


def test_device_tree_without_a_gic_has_no_interrupts() -> None:
    root = tree_of(replace(DESCRIPTION, gic=None))

    assert "timer" not in root.children
    assert "interrupt-parent" not in root.properties
    assert "interrupts" not in root.at("pl011@9000000").properties


def test_device_tree_of_a_kind_without_a_node_is_refused_by_name() -> None:
    other = DeviceDescription("watchdog", "sp805", 0x0905_0000, 0x1000, 40)

    with pytest.raises(UsageError) as caught:
        device_tree(replace(DESCRIPTION, devices=(other,)), ChosenNode())

    assert str(caught.value) == (
        "device 'watchdog' is of kind 'sp805', which a device tree of tagalong cannot describe; "
        "there is pl011, pl031, pl061 and virtio-*"
    )


def test_device_tree_clock_is_one_that_the_amba_bus_takes() -> None:
    root = tree_of(replace(DESCRIPTION, devices=(LINUX_RTC,)))

    clock = root.at("pl031@9010000")
    assert clock.texts("compatible") == ["arm,pl031", "arm,primecell"]
    assert clock.cells("interrupts") == (0, 2, 4)
    assert clock.texts("clock-names") == ["apb_pclk"]
    assert clock.cells("clocks") == root.at("apb-pclk").cells("phandle")


def test_device_tree_power_button_is_a_key_at_the_gpio_controller() -> None:
    root = tree_of(replace(DESCRIPTION, devices=(LINUX_GPIO,)))

    gpio = root.at("pl061@9030000")
    key = root.at("gpio-keys/poweroff")
    assert gpio.texts("compatible") == ["arm,pl061", "arm,primecell"]
    assert gpio.cells("interrupts") == (0, 7, 4)
    assert key.cells("gpios") == (*gpio.cells("phandle"), 3, 0)
    assert key.cells("linux,code") == (116,)


def test_device_tree_cpus_beyond_sixteen_have_an_aff1() -> None:
    cpus = tree_of(replace(DESCRIPTION, vcpu_count=18)).at("cpus")

    assert [*cpus.children][15:] == ["cpu@f", "cpu@100", "cpu@101"]
    assert cpus.at("cpu@101").cells("reg") == (0x101,)
