"""The device tree of a machine: what is in its description, in the words of the kernel's bindings.

Source: Linux, Documentation/devicetree/bindings: arm/cpus.yaml, arm/psci.yaml, timer/
arm,arch_timer.yaml, interrupt-controller/arm,gic-v3.yaml, serial/pl011.yaml, virtio/mmio.yaml,
rtc/arm,pl031.yaml, gpio/pl061-gpio.yaml, input/gpio-keys.yaml;
Devicetree Specification v0.4, chapter 3, for /chosen and /memory.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from tagalong.binary.fdt import FdtNode, cells, texts, wide, write_fdt
from tagalong.boot.linux.platform import POWER_BUTTON_LINE
from tagalong.errors import UsageError
from tagalong.machine import DeviceDescription, MachineDescription
from tagalong.machine.affinity import vcpu_affinity
from tagalong.machine.gic import (
    DISTRIBUTOR_BYTES,
    FIRST_PPI,
    FIRST_SPI,
    PHYSICAL_TIMER_INTID,
    REDISTRIBUTOR_BYTES,
    VIRTUAL_TIMER_INTID,
    GicDescription,
)

_GIC_PHANDLE: Final = 1
_CLOCK_PHANDLE: Final = 2
_GPIO_PHANDLE: Final = 3

_SPI, _PPI = 0, 1
_LEVEL_HIGH: Final = 4
_ACTIVE_HIGH: Final = 0
_KEY_POWER: Final = 116

# In the order of the binding. A guest at EL1 has no use for those of secure EL1 and of EL2.
_TIMER_INTIDS: Final = (29, PHYSICAL_TIMER_INTID, VIRTUAL_TIMER_INTID, 26)

# Only baud rates follow from it, which no device here has.
_UART_CLOCK_HZ: Final = 24_000_000

_PL011: Final = "pl011"
_PL031: Final = "pl031"
_PL061: Final = "pl061"
_VIRTIO: Final = "virtio-"


@dataclass(frozen=True)
class ChosenNode:
    """What the kernel is told beside what the machine has.

    `initrd`: first and last-plus-one gpa of the initial RAM disk. `rng_seed` and `kaslr_seed`:
    random bytes that the kernel mixes into its generator, and that choose its place.
    """

    command_line: str = ""
    initrd: tuple[int, int] | None = None
    rng_seed: bytes = b""
    kaslr_seed: bytes = b""


def device_tree(description: MachineDescription, chosen: ChosenNode) -> bytes:
    """Return the flattened device tree of a machine.

    Raises UsageError for a kind of device that has no node here, ValueError for a command line
    with a NUL.
    """
    names = [_node_name(device) for device in description.devices]
    nodes: dict[str, FdtNode] = {
        "psci": FdtNode({"compatible": texts("arm,psci-1.0", "arm,psci-0.2"),
                         "method": texts("hvc")}),
        "cpus": _cpus(description.vcpu_count),
        **dict(_memory(description)),
    }  # fmt: skip
    interrupts: dict[str, bytes] = {}
    if description.gic is not None:
        nodes |= _gic(description.gic, description.vcpu_count)
        nodes["timer"] = _timer()
        interrupts = {"interrupt-parent": cells(_GIC_PHANDLE)}
    nodes["apb-pclk"] = _clock()
    has_gic = description.gic is not None
    nodes |= {
        name: _device(device, has_gic)
        for name, device in zip(names, description.devices, strict=True)
    }
    if any(device.kind == _PL061 for device in description.devices):
        nodes["gpio-keys"] = _POWER_BUTTON
    consoles = [name for name in names if name.startswith(_PL011)]
    if consoles:
        nodes["aliases"] = FdtNode({"serial0": texts(f"/{consoles[0]}")})
    nodes["chosen"] = _chosen(chosen, consoles)
    root: dict[str, bytes] = {
        "compatible": texts("linux,dummy-virt"),
        "model": texts("tagalong"),
        "#address-cells": cells(2),
        "#size-cells": cells(2),
        **interrupts,
    }
    return write_fdt(FdtNode(root, nodes))


def _cpus(count: int) -> FdtNode:
    cpus = {
        f"cpu@{affinity:x}": FdtNode({
            "device_type": texts("cpu"),
            "compatible": texts("arm,armv8"),
            "reg": cells(affinity),
            "enable-method": texts("psci"),
        })
        for affinity in map(vcpu_affinity, range(count))
    }  # fmt: skip
    return FdtNode({"#address-cells": cells(1), "#size-cells": cells(0)}, cpus)


def _memory(description: MachineDescription) -> Iterator[tuple[str, FdtNode]]:
    for region in description.regions:
        properties = {
            "device_type": texts("memory"),
            "reg": wide(region.gpa, region.size_bytes),
        }
        yield f"memory@{region.gpa:x}", FdtNode(properties)


def _gic(gic: GicDescription, vcpu_count: int) -> dict[str, FdtNode]:
    properties = {
        "compatible": texts("arm,gic-v3"),
        "#interrupt-cells": cells(3),
        "interrupt-controller": b"",
        # No child has an address; without these dtc misses them in a parent of interrupts.
        "#address-cells": cells(2),
        "#size-cells": cells(2),
        "ranges": b"",
        "reg": wide(
            gic.distributor,
            DISTRIBUTOR_BYTES,
            gic.redistributors,
            REDISTRIBUTOR_BYTES * vcpu_count,
        ),
        "phandle": cells(_GIC_PHANDLE),
    }
    return {f"intc@{gic.distributor:x}": FdtNode(properties)}


def _timer() -> FdtNode:
    interrupts = b"".join(_interrupt(intid) for intid in _TIMER_INTIDS)
    # The timers run while a CPU waits for an interrupt.
    return FdtNode(
        {"compatible": texts("arm,armv8-timer"), "interrupts": interrupts, "always-on": b""}
    )


def _clock() -> FdtNode:
    return FdtNode({
        "compatible": texts("fixed-clock"),
        "#clock-cells": cells(0),
        "clock-frequency": cells(_UART_CLOCK_HZ),
        "clock-output-names": texts("clk24mhz"),
        "phandle": cells(_CLOCK_PHANDLE),
    })  # fmt: skip


def _node_name(device: DeviceDescription) -> str:
    if device.kind in _PROPERTIES:
        return f"{device.kind}@{device.gpa:x}"
    if device.kind.startswith(_VIRTIO):
        return f"virtio_mmio@{device.gpa:x}"
    raise UsageError(
        f"device {device.name!r} is of kind {device.kind!r}, which a device tree of tagalong "
        f"cannot describe; there is {', '.join(_PROPERTIES)} and {_VIRTIO}*"
    )


def _device(device: DeviceDescription, has_gic: bool) -> FdtNode:
    properties = dict(_PROPERTIES.get(device.kind, _VIRTIO_MMIO))
    properties["reg"] = wide(device.gpa, device.size_bytes)
    if device.interrupt is not None and has_gic:
        properties["interrupts"] = _interrupt(device.interrupt)
    return FdtNode(properties)


_UART: Final[Mapping[str, bytes]] = {
    "compatible": texts("arm,pl011", "arm,primecell"),
    "clocks": cells(_CLOCK_PHANDLE, _CLOCK_PHANDLE),
    "clock-names": texts("uartclk", "apb_pclk"),
}
_RTC: Final[Mapping[str, bytes]] = {
    "compatible": texts("arm,pl031", "arm,primecell"),
    "clocks": cells(_CLOCK_PHANDLE),
    "clock-names": texts("apb_pclk"),
}
_GPIO: Final[Mapping[str, bytes]] = {
    "compatible": texts("arm,pl061", "arm,primecell"),
    "clocks": cells(_CLOCK_PHANDLE),
    "clock-names": texts("apb_pclk"),
    "gpio-controller": b"",
    "#gpio-cells": cells(2),
    "phandle": cells(_GPIO_PHANDLE),
}
_PROPERTIES: Final = {_PL011: _UART, _PL031: _RTC, _PL061: _GPIO}
_POWER_BUTTON: Final = FdtNode(
    {"compatible": texts("gpio-keys")},
    {
        "poweroff": FdtNode({
            "label": texts("GPIO Key Poweroff"),
            "linux,code": cells(_KEY_POWER),
            "gpios": cells(_GPIO_PHANDLE, POWER_BUTTON_LINE, _ACTIVE_HIGH),
        })
    },
)  # fmt: skip
_VIRTIO_MMIO: Final[Mapping[str, bytes]] = {
    "compatible": texts("virtio,mmio"),
    "dma-coherent": b"",
}


def _interrupt(intid: int) -> bytes:
    """Return the cells of an interrupt. All lines here have levels: see devices/irq.py."""
    if intid >= FIRST_SPI:
        return cells(_SPI, intid - FIRST_SPI, _LEVEL_HIGH)
    return cells(_PPI, intid - FIRST_PPI, _LEVEL_HIGH)


def _chosen(chosen: ChosenNode, consoles: list[str]) -> FdtNode:
    properties = {"bootargs": texts(chosen.command_line)}
    if consoles:
        properties["stdout-path"] = texts(f"/{consoles[0]}")
    if chosen.initrd is not None:
        first, end = chosen.initrd
        properties |= {"linux,initrd-start": wide(first), "linux,initrd-end": wide(end)}
    if chosen.rng_seed:
        properties["rng-seed"] = chosen.rng_seed
    if chosen.kaslr_seed:
        properties["kaslr-seed"] = chosen.kaslr_seed
    return FdtNode(properties)
