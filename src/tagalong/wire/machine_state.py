"""STATE: registers, devices and the GIC, which have exactly one encoding.

Ids and names ascend strictly, so nothing appears twice and equal states have equal bytes.
"""

from collections.abc import Iterator

from tagalong.binary.layout import Buffer, Layout, MalformedError
from tagalong.wire import limits
from tagalong.wire.gic import decode_gic_state, encode_gic_state
from tagalong.wire.payload import PayloadReader, require_choice, require_range
from tagalong.wire.records import GicStateEntry, Power, StateRecord, VcpuEntry

STATE_HEAD = Layout(
    ("vcpu_count", "u32"), ("device_count", "u32"), ("gic_count", "u32"), ("reserved", "u32")
)
STATE_HEAD_V3 = Layout(*STATE_HEAD.fields[:2])
VCPU_HEAD = Layout(("power", "u32"), ("register_count", "u32"))
DEVICE_HEAD = Layout(("name_bytes", "u16"), ("reserved", "u16"), ("state_bytes", "u32"))

_ID_BYTES = 8
STATE_BYTES = (STATE_HEAD.size + VCPU_HEAD.size, limits.MAX_STATE_BYTES)
STATE_BYTES_V3 = (STATE_HEAD_V3.size + VCPU_HEAD.size, limits.MAX_STATE_BYTES)

_MAX_ID = (1 << 64) - 1
_SIZE_SHIFT = 52
_SIZE_MASK = 0xF


def encode_state(state: StateRecord) -> bytes:
    """Return the payload of STATE. Raises MalformedError for what the format cannot hold."""
    payload = b"".join(_parts(state))
    if len(payload) > limits.MAX_STATE_BYTES:
        raise MalformedError(
            f"a state of {len(payload):#x} bytes: {limits.MAX_STATE_BYTES:#x} are possible"
        )
    # Our own reader judges counts, ids and names: nothing is sent that it would reject.
    decode_state(payload)
    return payload


def _parts(state: StateRecord) -> Iterator[bytes]:
    yield STATE_HEAD.pack(
        vcpu_count=len(state.vcpus),
        device_count=len(state.devices),
        gic_count=int(state.gic is not None),
    )
    for vcpu in state.vcpus:
        yield VCPU_HEAD.pack(power=vcpu.power, register_count=len(vcpu.registers))
        for register, value in sorted(vcpu.registers.items()):
            yield _encode_register(register, value)
    for name, content in sorted(state.devices.items()):
        encoded = name.encode("utf-8", "surrogatepass")
        yield DEVICE_HEAD.pack(name_bytes=len(encoded), state_bytes=len(content))
        yield encoded
        yield content
    if state.gic is not None:
        _require_gic_of(state.gic, len(state.vcpus))
        yield from encode_gic_state(state.gic)


def _require_gic_of(gic: GicStateEntry, vcpu_count: int) -> None:
    for parts in (gic.redistributors, gic.cpu_interfaces, gic.ppi_levels):
        if len(parts) != vcpu_count:
            raise MalformedError(f"a GIC of {len(parts):#x} vCPUs in a state of {vcpu_count:#x}")


def _encode_register(register: int, value: int) -> bytes:
    if not 0 <= register <= _MAX_ID:
        raise MalformedError(f"{register:#x} is not a register id of 64 bits")
    size = register_bytes(register)
    try:
        return register.to_bytes(_ID_BYTES, "little") + value.to_bytes(size, "little")
    except OverflowError as error:
        raise MalformedError(
            f"register {register:#x} cannot hold {value:#x}: it has {size:#x} bytes"
        ) from error


def register_bytes(register: int) -> int:
    """Return the size that a KVM ONE_REG id gives its register (bits 55:52, log2)."""
    return 1 << (register >> _SIZE_SHIFT & _SIZE_MASK)


def decode_state(payload: Buffer) -> StateRecord:
    """Return the state that a payload holds.

    Raises MalformedError, its offset counted from the payload's start.
    """
    return _decode(PayloadReader(payload), STATE_HEAD)


def decode_state_v3(payload: Buffer) -> StateRecord:
    """Return the state that a payload of a stream of version 2 or 3 holds; as above."""
    return _decode(PayloadReader(payload), STATE_HEAD_V3)


def _decode(reader: PayloadReader, layout: Layout) -> StateRecord:
    head = reader.take(layout)
    gic_count = head.get("gic_count", 0)
    if gic_count:
        require_choice(layout, head, "gic_count", (0, 1))
    require_range("vCPUs", head["vcpu_count"], limits.MAX_VCPUS, at_least=1, at=0)
    require_range("devices", head["device_count"], limits.MAX_DEVICES, at=4)
    vcpus = tuple(_decode_vcpu(reader) for _ in range(head["vcpu_count"]))
    devices = _decode_devices(reader, head["device_count"])
    gic = decode_gic_state(reader, len(vcpus)) if gic_count else None
    reader.finish("the state")
    return StateRecord(vcpus, devices, gic)


def _decode_vcpu(reader: PayloadReader) -> VcpuEntry:
    at = reader.at
    head = reader.take(VCPU_HEAD)
    if head["power"] not in tuple(Power):
        raise MalformedError(f"{head['power']:#x} is not a power state", offset=at)
    count = head["register_count"]
    require_range(
        "registers", count, limits.MAX_REGISTERS, at=at + VCPU_HEAD.offsets["register_count"]
    )
    return VcpuEntry(Power(head["power"]), _decode_registers(reader, count))


def _decode_registers(reader: PayloadReader, count: int) -> dict[int, int]:
    registers: dict[int, int] = {}
    previous = -1
    # Hundreds of them, while the guest is paused: what is sound takes no call of the reader's.
    data, at = reader.peek(count * (_ID_BYTES + limits.MAX_REGISTER_BYTES)), 0
    for _ in range(count):
        register = int.from_bytes(data[at : at + _ID_BYTES], "little")
        size = 1 << (register >> _SIZE_SHIFT & _SIZE_MASK)
        end = at + _ID_BYTES + size
        if end > len(data) or register <= previous or size > limits.MAX_REGISTER_BYTES:
            reader.at += at
            raise _unsound_register(reader, previous)
        registers[register] = int.from_bytes(data[at + _ID_BYTES : end], "little")
        previous, at = register, end
    reader.at += at
    return registers


def _unsound_register(reader: PayloadReader, previous: int) -> MalformedError:
    """Return what is wrong with the register that comes next."""
    at = reader.at
    try:
        register = int.from_bytes(reader.take_bytes(_ID_BYTES, "a register id", at=at), "little")
        if register <= previous:
            return MalformedError(
                f"register {register:#x} after {previous:#x}: ids must ascend", offset=at
            )
        size = register_bytes(register)
        require_range(f"bytes in register {register:#x}", size, limits.MAX_REGISTER_BYTES, at=at)
        reader.take_bytes(size, f"register {register:#x}", at=at)
    except MalformedError as error:
        return error
    raise AssertionError(f"register {register:#x} is sound")


def _decode_devices(reader: PayloadReader, count: int) -> dict[str, bytes]:
    devices: dict[str, bytes] = {}
    previous = ""
    for _ in range(count):
        name, content = _decode_device(reader, previous)
        devices[name] = content
        previous = name
    return devices


def _decode_device(reader: PayloadReader, previous: str) -> tuple[str, bytes]:
    at = reader.at
    head = reader.take(DEVICE_HEAD)
    size_at = at + DEVICE_HEAD.offsets["state_bytes"]
    limit = limits.MAX_DEVICE_NAME_BYTES
    require_range("bytes in a device's name", head["name_bytes"], limit, at=at, at_least=1)
    limit = limits.MAX_DEVICE_STATE_BYTES
    require_range("bytes in a device's state", head["state_bytes"], limit, at=size_at)
    name_at = reader.at
    name = reader.take_name(head["name_bytes"], "device name", at=at)
    if name <= previous:
        raise MalformedError(f"device {name} after {previous}: names must ascend", offset=name_at)
    return name, bytes(reader.take_bytes(head["state_bytes"], f"device {name}", at=size_at))
