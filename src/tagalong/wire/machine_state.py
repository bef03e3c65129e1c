"""STATE: registers and devices, in the one way in which they can be written.

Ids and names ascend strictly, so nothing appears twice and equal states have equal bytes.
"""

from collections.abc import Iterator

from tagalong.binary.layout import Buffer, Layout, MalformedError
from tagalong.wire import limits
from tagalong.wire.records import Power, StateRecord, VcpuEntry

STATE_HEAD = Layout(("vcpu_count", "u32"), ("device_count", "u32"))
VCPU_HEAD = Layout(("power", "u32"), ("register_count", "u32"))
DEVICE_HEAD = Layout(("name_bytes", "u16"), ("reserved", "u16"), ("state_bytes", "u32"))

_ID_BYTES = 8
_MAX_ID = (1 << 64) - 1
_SIZE_SHIFT = 52
_SIZE_MASK = 0xF
_NAME_CHARACTERS = frozenset(range(0x21, 0x7F))


def encode_state(state: StateRecord) -> bytes:
    """Return the payload of STATE. Raises MalformedError for what the format cannot hold."""
    payload = b"".join(_parts(state))
    if len(payload) > limits.MAX_STATE_BYTES:
        raise MalformedError(
            f"a state of {len(payload):#x} bytes: {limits.MAX_STATE_BYTES:#x} are possible"
        )
    # Our own reader is the judge of counts, ids and names: nothing is sent that it refuses.
    decode_state(payload)
    return payload


def _parts(state: StateRecord) -> Iterator[bytes]:
    yield STATE_HEAD.pack(vcpu_count=len(state.vcpus), device_count=len(state.devices))
    for vcpu in state.vcpus:
        yield VCPU_HEAD.pack(power=vcpu.power, register_count=len(vcpu.registers))
        for register, value in sorted(vcpu.registers.items()):
            yield _encode_register(register, value)
    for name, content in sorted(state.devices.items()):
        encoded = name.encode("utf-8", "surrogatepass")
        yield DEVICE_HEAD.pack(name_bytes=len(encoded), state_bytes=len(content))
        yield encoded
        yield content


def _encode_register(register: int, value: int) -> bytes:
    if not 0 <= register <= _MAX_ID:
        raise MalformedError(f"{register:#x} is no register id of 64 bits")
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
    reader = _Reader(payload)
    head = reader.take(STATE_HEAD)
    reader.require("vCPUs", head["vcpu_count"], limits.MAX_VCPUS, at_least=1, at=0)
    reader.require("devices", head["device_count"], limits.MAX_DEVICES, at=4)
    vcpus = tuple(_decode_vcpu(reader) for _ in range(head["vcpu_count"]))
    devices = _decode_devices(reader, head["device_count"])
    reader.finish()
    return StateRecord(vcpus, devices)


class _Reader:
    """A position in a payload that never passes its end."""

    def __init__(self, payload: Buffer) -> None:
        self._payload = memoryview(payload)
        self.at = 0

    def take(self, layout: Layout) -> dict[str, int]:
        values = layout.unpack(self._payload, self.at)
        self.at += layout.size
        return values

    def take_bytes(self, size: int, what: str, *, at: int) -> memoryview:
        """Return the next bytes; `at` is the field that says how many there are."""
        left = len(self._payload) - self.at
        if size > left:
            raise MalformedError(f"{what} takes {size:#x} bytes, but {left:#x} are left", offset=at)
        taken = self._payload[self.at : self.at + size]
        self.at += size
        return taken

    def require(self, what: str, count: int, limit: int, *, at: int, at_least: int = 0) -> None:
        if not at_least <= count <= limit:
            raise MalformedError(
                f"{count:#x} {what}: {at_least:#x} to {limit:#x} are possible", offset=at
            )

    def finish(self) -> None:
        left = len(self._payload) - self.at
        if left:
            raise MalformedError(f"{left:#x} bytes are left over behind the state", offset=self.at)


def _decode_vcpu(reader: _Reader) -> VcpuEntry:
    at = reader.at
    head = reader.take(VCPU_HEAD)
    if head["power"] not in tuple(Power):
        raise MalformedError(f"{head['power']:#x} is no power state", offset=at)
    count = head["register_count"]
    reader.require(
        "registers", count, limits.MAX_REGISTERS, at=at + VCPU_HEAD.offsets["register_count"]
    )
    registers: dict[int, int] = {}
    previous = -1
    for _ in range(count):
        at = reader.at
        register = int.from_bytes(reader.take_bytes(_ID_BYTES, "a register id", at=at), "little")
        if register <= previous:
            raise MalformedError(
                f"register {register:#x} after {previous:#x}: ids must ascend", offset=at
            )
        size = register_bytes(register)
        reader.require(f"bytes in register {register:#x}", size, limits.MAX_REGISTER_BYTES, at=at)
        value = reader.take_bytes(size, f"register {register:#x}", at=at)
        registers[register] = int.from_bytes(value, "little")
        previous = register
    return VcpuEntry(Power(head["power"]), registers)


def _decode_devices(reader: _Reader, count: int) -> dict[str, bytes]:
    devices: dict[str, bytes] = {}
    previous = ""
    for _ in range(count):
        name, content = _decode_device(reader, previous)
        devices[name] = content
        previous = name
    return devices


def _decode_device(reader: _Reader, previous: str) -> tuple[str, bytes]:
    at = reader.at
    head = reader.take(DEVICE_HEAD)
    size_at = at + DEVICE_HEAD.offsets["state_bytes"]
    limit = limits.MAX_DEVICE_NAME_BYTES
    reader.require("bytes in a device's name", head["name_bytes"], limit, at=at, at_least=1)
    limit = limits.MAX_DEVICE_STATE_BYTES
    reader.require("bytes in a device's state", head["state_bytes"], limit, at=size_at)
    name_at = reader.at
    raw_name = bytes(reader.take_bytes(head["name_bytes"], "a device's name", at=at))
    if not _NAME_CHARACTERS.issuperset(raw_name):
        raise MalformedError(f"{raw_name!r} is no device name", offset=name_at)
    name = raw_name.decode("ascii")
    if name <= previous:
        raise MalformedError(f"device {name} after {previous}: names must ascend", offset=name_at)
    return name, bytes(reader.take_bytes(head["state_bytes"], f"device {name}", at=size_at))
