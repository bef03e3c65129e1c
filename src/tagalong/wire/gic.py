"""The GICv3 in MACHINE and in STATE: where it is, and its registers by offset and by encoding.

Which registers a state must have is the machine's business; here is how they are written, in
exactly one way: ascending, nothing twice, so equal states have equal bytes.
"""

from collections.abc import Iterator, Mapping

from tagalong.binary.layout import Layout, MalformedError
from tagalong.wire import limits
from tagalong.wire.payload import PayloadReader, require_range
from tagalong.wire.records import DeviceEntry, GicEntry, GicStateEntry

MACHINE_GIC = Layout(("distributor", "u64"), ("redistributors", "u64"))
GIC_HEAD = Layout(("register_count", "u32"), ("level_count", "u32"))
GIC_REGISTER = Layout(("offset", "u32"), ("value", "u32"))
GIC_VCPU = Layout(
    ("register_count", "u32"),
    ("interface_count", "u32"),
    ("ppi_levels", "u32"),
    ("reserved", "u32"),
)
GIC_INTERFACE_REGISTER = Layout(("encoding", "u32"), ("reserved", "u32"), ("value", "u64"))

_FRAME_BYTES = 0x1_0000
_SPIS_PER_WORD = 32
_LEVEL_BYTES = 4


def encode_gic(gic: GicEntry) -> bytes:
    """Return what follows the head of a MACHINE that has a GIC."""
    return MACHINE_GIC.pack(distributor=gic.distributor, redistributors=gic.redistributors)


def decode_gic(reader: PayloadReader, spi_count: int, *, at: int) -> GicEntry:
    """Return the GIC of a MACHINE. Raises MalformedError; `at` is the place of `spi_count`."""
    require_range("SPIs", spi_count, limits.MAX_SPIS, at=at, at_least=_SPIS_PER_WORD)
    if spi_count % _SPIS_PER_WORD:
        raise MalformedError(
            f"{spi_count:#x} SPIs are no multiple of {_SPIS_PER_WORD:#x}", offset=at
        )
    at = reader.at
    values = reader.take(MACHINE_GIC)
    for name, gpa in values.items():
        if gpa % _FRAME_BYTES or gpa >= limits.MAX_GPA:
            raise MalformedError(
                f"{name} is {gpa:#x}, possible are multiples of {_FRAME_BYTES:#x} below "
                f"{limits.MAX_GPA:#x}",
                offset=at + MACHINE_GIC.offsets[name],
            )
    return GicEntry(spi_count=spi_count, **values)


def require_spi(gic: GicEntry, device: DeviceEntry, *, at: int) -> None:
    """Raise MalformedError unless `gic` has the interrupt of `device`, if it has one."""
    last = limits.MIN_INTERRUPT + gic.spi_count - 1
    if device.interrupt is not None and device.interrupt > last:
        raise MalformedError(
            f"{device} has an interrupt beyond {last:#x}, the last of the GIC", offset=at
        )


def encode_gic_state(gic: GicStateEntry) -> Iterator[bytes]:
    """Yield what follows the devices of a STATE that has a GIC."""
    yield GIC_HEAD.pack(register_count=len(gic.distributor), level_count=len(gic.spi_levels))
    yield from _encode_registers(gic.distributor)
    for level in gic.spi_levels:
        yield _encode_level(level)
    for registers, interface, ppis in zip(
        gic.redistributors, gic.cpu_interfaces, gic.ppi_levels, strict=True
    ):
        yield GIC_VCPU.pack(
            register_count=len(registers), interface_count=len(interface), ppi_levels=ppis
        )
        yield from _encode_registers(registers)
        for encoding, value in sorted(interface.items()):
            yield GIC_INTERFACE_REGISTER.pack(encoding=encoding, value=value)


def _encode_registers(registers: Mapping[int, int]) -> Iterator[bytes]:
    for offset, value in sorted(registers.items()):
        yield GIC_REGISTER.pack(offset=offset, value=value)


def _encode_level(level: int) -> bytes:
    try:
        return level.to_bytes(_LEVEL_BYTES, "little")
    except OverflowError as error:
        raise MalformedError(f"{level:#x} is no word of levels") from error


def decode_gic_state(reader: PayloadReader, vcpu_count: int) -> GicStateEntry:
    """Return the GIC of a STATE of so many vCPUs. Raises MalformedError."""
    at = reader.at
    head = reader.take(GIC_HEAD)
    place = at + GIC_HEAD.offsets["register_count"]
    require_range(
        "registers of a GIC distributor", head["register_count"], limits.MAX_GIC_REGISTERS, at=place
    )
    place, limit = at + GIC_HEAD.offsets["level_count"], limits.MAX_SPIS // _SPIS_PER_WORD
    require_range("words of SPI levels", head["level_count"], limit, at=place)
    distributor = _decode_registers(reader, head["register_count"])
    size = head["level_count"] * _LEVEL_BYTES
    levels = reader.take_bytes(size, "the levels of SPIs", at=place)
    vcpus = [_decode_vcpu(reader) for _ in range(vcpu_count)]
    return GicStateEntry(
        distributor=distributor,
        redistributors=tuple(redistributor for redistributor, _, _ in vcpus),
        cpu_interfaces=tuple(interface for _, interface, _ in vcpus),
        spi_levels=tuple(
            int.from_bytes(levels[start : start + _LEVEL_BYTES], "little")
            for start in range(0, size, _LEVEL_BYTES)
        ),
        ppi_levels=tuple(ppis for _, _, ppis in vcpus),
    )


def _decode_vcpu(reader: PayloadReader) -> tuple[dict[int, int], dict[int, int], int]:
    """Return the registers of a redistributor and of a CPU interface, and the PPIs' levels."""
    at = reader.at
    head = reader.take(GIC_VCPU)
    for name, what in (
        ("register_count", "registers of a GIC redistributor"),
        ("interface_count", "registers of a GIC CPU interface"),
    ):
        place = at + GIC_VCPU.offsets[name]
        require_range(what, head[name], limits.MAX_GIC_VCPU_REGISTERS, at=place)
    registers = _decode_registers(reader, head["register_count"])
    interface: dict[int, int] = {}
    for _ in range(head["interface_count"]):
        at = reader.at
        entry = reader.take(GIC_INTERFACE_REGISTER)
        _require_ascending(interface, entry["encoding"], at=at)
        interface[entry["encoding"]] = entry["value"]
    return registers, interface, head["ppi_levels"]


def _decode_registers(reader: PayloadReader, count: int) -> dict[int, int]:
    registers: dict[int, int] = {}
    for _ in range(count):
        at = reader.at
        entry = reader.take(GIC_REGISTER)
        _require_ascending(registers, entry["offset"], at=at)
        registers[entry["offset"]] = entry["value"]
    return registers


def _require_ascending(before: dict[int, int], register: int, *, at: int) -> None:
    last = next(reversed(before), -1)
    if register <= last:
        raise MalformedError(
            f"GIC register {register:#x} after {last:#x}: they must ascend", offset=at
        )
