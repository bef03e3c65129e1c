"""MACHINE: what a destination must provide: processors, regions of RAM, and devices.

What the guest sees of a device travels (its name, kind, window, interrupt and configuration):
a guest that finds another disk size or another window after the migration has lost its device.
What backs the device is not part of it: files and sockets of the source's host mean nothing at
the destination, whose operator names them there, by the device's name.

Version 3 of the stream had no interrupt controller. Version 2 had no devices either, and every
machine one console. That is what a MACHINE of those versions means.
"""

from collections.abc import Iterable, Iterator
from itertools import pairwise
from operator import attrgetter

from tagalong.binary.layout import Buffer, Layout, MalformedError
from tagalong.mte import PAGE_SIZES_BYTES
from tagalong.wire import limits
from tagalong.wire.gic import MACHINE_GIC, decode_gic, encode_gic, require_spi
from tagalong.wire.payload import PayloadReader, require_choice, require_count, require_range
from tagalong.wire.records import DeviceEntry, GicEntry, GicFrame, MachineRecord, RegionEntry

MTE_VERSIONS = (0, 2, 3)
NO_INTERRUPT = 0
"""INTID 0 is a software-generated interrupt, which no device has."""
NO_GIC = 0
"""The `spi_count` of a machine without a GIC: one with a GIC has SPIs."""

MACHINE_HEAD = Layout(
    ("page_size_bytes", "u32"),
    ("vcpu_count", "u32"),
    ("mte_version", "u32"),
    ("region_count", "u32"),
    ("device_count", "u32"),
    ("spi_count", "u32"),
)
MACHINE_HEAD_V3 = Layout(*MACHINE_HEAD.fields[:5], ("reserved", "u32"))
MACHINE_HEAD_V2 = Layout(*MACHINE_HEAD.fields[:4])
REGION = Layout(("gpa", "u64"), ("size_bytes", "u64"))
MACHINE_DEVICE = Layout(
    ("gpa", "u64"),
    ("size_bytes", "u64"),
    ("interrupt", "u32"),
    ("name_bytes", "u16"),
    ("kind_bytes", "u16"),
    ("config_bytes", "u32"),
    ("reserved", "u32"),
)

V2_DEVICES: tuple[DeviceEntry, ...] = (DeviceEntry("pl011", "pl011", 0x0900_0000, 0x1000),)
"""What every machine had whose MACHINE says nothing about devices."""

MACHINE_BYTES = (
    MACHINE_HEAD.size + REGION.size,
    MACHINE_HEAD.size
    + MACHINE_GIC.size
    + REGION.size * limits.MAX_REGIONS
    + limits.MAX_DEVICES_BYTES,
)
MACHINE_BYTES_V3 = (MACHINE_BYTES[0], MACHINE_BYTES[1] - MACHINE_GIC.size)
MACHINE_BYTES_V2 = (
    MACHINE_HEAD_V2.size + REGION.size,
    MACHINE_HEAD_V2.size + REGION.size * limits.MAX_REGIONS,
)


def encode_machine(machine: MachineRecord) -> bytes:
    """Return the payload of MACHINE. Raises MalformedError for what the format cannot hold."""
    payload = b"".join(_parts(machine))
    # Our own reader judges: nothing is sent that it would reject.
    decode_machine(payload)
    return payload


def _parts(machine: MachineRecord) -> Iterator[bytes]:
    yield MACHINE_HEAD.pack(
        page_size_bytes=machine.page_size_bytes,
        vcpu_count=machine.vcpu_count,
        mte_version=machine.mte_version,
        region_count=len(machine.regions),
        device_count=len(machine.devices),
        spi_count=NO_GIC if machine.gic is None else machine.gic.spi_count,
    )
    if machine.gic is not None:
        if machine.gic.spi_count == NO_GIC:
            raise MalformedError("a GIC has no SPIs")
        yield encode_gic(machine.gic)
    for region in machine.regions:
        yield REGION.pack(gpa=region.gpa, size_bytes=region.size_bytes)
    for device in machine.devices:
        name, kind = (each.encode("utf-8", "surrogatepass") for each in (device.name, device.kind))
        if device.interrupt == NO_INTERRUPT:
            raise MalformedError(f"device {device.name} has the interrupt {NO_INTERRUPT:#x}")
        yield MACHINE_DEVICE.pack(
            gpa=device.gpa,
            size_bytes=device.size_bytes,
            interrupt=NO_INTERRUPT if device.interrupt is None else device.interrupt,
            name_bytes=len(name),
            kind_bytes=len(kind),
            config_bytes=len(device.config),
        )
        yield name + kind + device.config


def decode_machine(payload: Buffer) -> MachineRecord:
    """Return the machine that a payload describes.

    Raises MalformedError, its offset counted from the payload's start.
    """
    return _decode(PayloadReader(payload), MACHINE_HEAD)


def decode_machine_v3(payload: Buffer) -> MachineRecord:
    """Return the machine that a payload of a stream of version 3 describes; as above."""
    return _decode(PayloadReader(payload), MACHINE_HEAD_V3)


def decode_machine_v2(payload: Buffer) -> MachineRecord:
    """Return the machine that a payload of a stream of version 2 describes; as above."""
    return _decode(PayloadReader(payload), MACHINE_HEAD_V2)


def _decode(reader: PayloadReader, layout: Layout) -> MachineRecord:
    head = reader.take(layout)
    require_choice(layout, head, "page_size_bytes", PAGE_SIZES_BYTES)
    require_count(layout, head, "vcpu_count", limits.MAX_VCPUS)
    require_choice(layout, head, "mte_version", MTE_VERSIONS)
    require_count(layout, head, "region_count", limits.MAX_REGIONS)
    spi_count, gic = head.get("spi_count", NO_GIC), None
    if spi_count != NO_GIC:
        gic = decode_gic(reader, spi_count, at=layout.offsets["spi_count"])
    regions = tuple(_decode_regions(reader, head["region_count"], head["page_size_bytes"]))
    at = reader.at
    is_v2 = layout is MACHINE_HEAD_V2
    devices = V2_DEVICES if is_v2 else _decode_devices(reader, head["device_count"], gic)
    frames = gic.frames(head["vcpu_count"]) if gic else ()
    _require_apart([*frames, *regions, *devices], at=at)
    reader.finish("the machine")
    return MachineRecord(
        page_size_bytes=head["page_size_bytes"],
        vcpu_count=head["vcpu_count"],
        mte_version=head["mte_version"],
        regions=regions,
        devices=devices,
        gic=gic,
    )


def _decode_regions(reader: PayloadReader, count: int, page_size: int) -> Iterator[RegionEntry]:
    end = 0
    for _ in range(count):
        at = reader.at
        region = RegionEntry(**reader.take(REGION))
        if region.gpa % page_size or region.size_bytes % page_size or not region.size_bytes:
            raise MalformedError(
                f"region [{region.gpa:#x}, {region.end:#x}) is empty or not of whole pages of "
                f"{page_size:#x}",
                offset=at,
            )
        if region.gpa < end or region.end > limits.MAX_GPA:
            raise MalformedError(
                f"region [{region.gpa:#x}, {region.end:#x}) must start at or after {end:#x}, where "
                f"the one before it ends, and end by {limits.MAX_GPA:#x}",
                offset=at,
            )
        yield region
        end = region.end


def _decode_devices(
    reader: PayloadReader, count: int, gic: GicEntry | None
) -> tuple[DeviceEntry, ...]:
    at = MACHINE_HEAD.offsets["device_count"]
    require_range("devices", count, limits.MAX_DEVICES, at=at)
    start = reader.at
    devices: dict[str, DeviceEntry] = {}
    for _ in range(count):
        at = reader.at
        device = _decode_device(reader)
        if device.name in devices:
            raise MalformedError(f"two devices have the name {device.name}", offset=at)
        require_range("bytes of devices", reader.at - start, limits.MAX_DEVICES_BYTES, at=at)
        if gic is not None:
            require_spi(gic, device, at=at)
        devices[device.name] = device
    return tuple(devices.values())


def _decode_device(reader: PayloadReader) -> DeviceEntry:
    at = reader.at
    head = reader.take(MACHINE_DEVICE)
    place = {name: at + offset for name, offset in MACHINE_DEVICE.offsets.items()}
    interrupt = head["interrupt"]
    if interrupt != NO_INTERRUPT:
        require_range(
            "as a device's interrupt", interrupt, limits.MAX_INTERRUPT,
            at=place["interrupt"], at_least=limits.MIN_INTERRUPT,
        )  # fmt: skip
    for part, limit, at_least in (
        ("name", limits.MAX_DEVICE_NAME_BYTES, 1),
        ("kind", limits.MAX_DEVICE_NAME_BYTES, 1),
        ("config", limits.MAX_DEVICE_CONFIG_BYTES, 0),
    ):
        field, what = f"{part}_bytes", f"bytes in a device's {part}"
        require_range(what, head[field], limit, at=place[field], at_least=at_least)
    name = reader.take_name(head["name_bytes"], "device name", at=place["name_bytes"])
    kind = reader.take_name(head["kind_bytes"], "device kind", at=place["kind_bytes"])
    config = reader.take_bytes(
        head["config_bytes"], f"the configuration of {name}", at=place["config_bytes"]
    )
    device = DeviceEntry(
        name, kind, head["gpa"], head["size_bytes"],
        None if interrupt == NO_INTERRUPT else interrupt, bytes(config),
    )  # fmt: skip
    if not device.size_bytes or device.end > limits.MAX_GPA:
        raise MalformedError(
            f"the window of {name}, [{device.gpa:#x}, {device.end:#x}), is empty or does not end "
            f"by {limits.MAX_GPA:#x}",
            offset=at,
        )
    return device


def _require_apart(ranges: Iterable[RegionEntry | DeviceEntry | GicFrame], *, at: int) -> None:
    """Raise if a window or a frame overlaps another one or RAM."""
    ordered = sorted(ranges, key=attrgetter("gpa"))
    for low, high in pairwise(ordered):
        if low.end > high.gpa:
            raise MalformedError(f"{low} and {high} overlap", offset=at)
