"""A whole conversation, two connections in lockstep, and records made wrong on purpose."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import xxhash

from tagalong.wire import (
    NEED_DATA,
    Abort,
    AbortReason,
    Accept,
    Buffer,
    Commit,
    Connection,
    Digest,
    Hello,
    KeepAlive,
    Machine,
    NoBytes,
    Pages,
    Phase,
    Placement,
    Power,
    Prepare,
    Ready,
    Record,
    RecordType,
    Region,
    Role,
    Round,
    Run,
    Running,
    Runs,
    State,
    Vcpu,
    Verify,
)

PAGE = 4096
RAM = 0x4000_0000
MIGRATION_ID = bytes(range(0xA0, 0xB0))
MACHINE = Machine(
    page_size_bytes=PAGE,
    vcpu_count=2,
    mte_version=3,
    regions=(Region(RAM, 0x10_0000), Region(RAM + 0x20_0000, 0x8000)),
)

SOURCE, DESTINATION = Role.SOURCE, Role.DESTINATION


def plane(content: bytes) -> memoryview:
    return memoryview(content)


RAW_DATA = plane(bytes(number * 7 % 251 for number in range(PAGE)))
RAW_TAGS = plane(bytes(number * 89 % 256 for number in range(PAGE // 32)))
RUN_TAGS = plane(b"\x11" * 100 + b"\x22" * 156)

X0 = 0x6030_0000_0010_0000
STATE = State(
    vcpus=(
        Vcpu(Power.ON, {X0: 0x1234, 0x6030_0000_0013_C086: 0x1_0001}),
        Vcpu(Power.OFF, {0x6020_0000_0010_00D4: 0x10, 0x6040_0000_0010_0054: 1 << 127}),
    ),
    devices={"pl011": b"\x01\x00", "psci": b""},
)
PREVIEW = State(
    vcpus=(Vcpu(Power.ON, {**STATE.vcpus[0].registers, X0: 0x1000}), STATE.vcpus[1]),
    devices=STATE.devices,
)
DIGEST = bytes(range(16))

SCRIPT: tuple[tuple[Role, Record], ...] = (
    (SOURCE, Hello(SOURCE, MIGRATION_ID)),
    (DESTINATION, Hello(DESTINATION, MIGRATION_ID)),
    (SOURCE, MACHINE),
    (SOURCE, PREVIEW),
    (DESTINATION, KeepAlive()),
    (DESTINATION, Accept()),
    (SOURCE, Pages(Runs([Run(RAM, 1)]), (RAW_DATA,), RAW_TAGS)),
    (SOURCE, Pages(Runs([Run(RAM + 0x1000, 0xFF)]), NoBytes.ZERO, NoBytes.ZERO)),
    (SOURCE, Round(1, 0x100)),
    (DESTINATION, Round(1, 0x100)),
    (SOURCE, Pages(Runs([Run(RAM, 1), Run(RAM + 0x20_0000, 1)]), NoBytes.ZERO, RUN_TAGS)),
    (SOURCE, Round(2, 2)),
    (DESTINATION, Round(2, 2)),
    (SOURCE, STATE),
    (SOURCE, Verify()),
    (SOURCE, Digest(DIGEST)),
    (DESTINATION, Digest(DIGEST)),
    (SOURCE, Prepare()),
    (DESTINATION, Ready()),
    (SOURCE, Commit(run=True)),
    (DESTINATION, Running()),
)
"""A migration with verification, every record type but ABORT in it."""

SAMPLES: dict[RecordType, Record] = {
    **{record.type: record for _, record in SCRIPT},
    RecordType.ABORT: Abort(AbortReason.CANCELLED, "asked for"),
    RecordType.PAGES: Pages(Runs([Run(RAM, 1)]), NoBytes.ZERO, NoBytes.ZERO),
}


def joined(buffers: Iterable[Buffer]) -> bytes:
    return b"".join(bytes(buffer) for buffer in buffers)


@dataclass
class Pair:
    """Both ends of one conversation; `say` moves a record from one to the other."""

    source: Connection
    destination: Connection

    @classmethod
    def new(cls, *place: Placement) -> "Pair":
        return cls(Connection(SOURCE), Connection(DESTINATION, *place))

    def end(self, role: Role) -> Connection:
        return self.source if role is SOURCE else self.destination

    def say(self, role: Role, record: Record) -> Record:
        self.end(role.peer).receive_data(joined(self.end(role).send(record)))
        received = self.end(role.peer).next_record()
        assert received is not NEED_DATA
        assert self.end(role.peer).next_record() is NEED_DATA or self.source.phase.is_final
        return received


def pair_in(phase: Phase, *place: Placement) -> Pair:
    """Return both ends of a conversation that the script has brought to `phase`."""
    pair = Pair.new(*place)
    for role, record in SCRIPT:
        if pair.source.phase is phase:
            return pair
        pair.say(role, record)
    if phase is Phase.ABORTED:
        pair = Pair.new()
        pair.say(SOURCE, SAMPLES[RecordType.ABORT])
    assert pair.source.phase is phase
    return pair


def records_said_by(role: Role, before: Phase) -> int:
    """Return how many records `role` has sent when pair_in(before) is reached."""
    pair = Pair.new()
    count = 0
    for sender, record in SCRIPT:
        if pair.source.phase is before:
            break
        pair.say(sender, record)
        count += sender is role
    return count


def streams() -> dict[Role, bytes]:
    """Return what the script puts on the wire in each direction."""
    pair = Pair.new()
    sent = {SOURCE: b"", DESTINATION: b""}
    for role, record in SCRIPT:
        buffers = joined(pair.end(role).send(record))
        pair.end(role.peer).receive_data(buffers)
        pair.end(role.peer).next_record()
        sent[role] += buffers
    return sent


def hear(
    listener: Role, heard: bytes, script: Sequence[tuple[Role, Record]] = SCRIPT
) -> list[Record]:
    """Play one end of the script against a recorded stream; return what it accepted.

    Every record of the listener's own is sent at its place in the script. Raises what the
    connection raises; at the end of `heard` the connection is told so.
    """
    connection = Connection(listener)
    connection.receive_data(heard)
    accepted: list[Record] = []
    for role, record in script:
        if role is listener:
            connection.send(record)
            continue
        received = connection.next_record()
        if received is NEED_DATA:
            connection.receive_eof()
            raise AssertionError("a stream that ends early was taken for a whole one")
        accepted.append(received)
    assert connection.next_record() is NEED_DATA
    connection.receive_eof()
    return accepted


def records_in(stream: bytes) -> list[tuple[int, bytes]]:
    """Return the offset and the bytes of each record of a sound stream."""
    records = []
    at = 16
    while at < len(stream):
        size = 16 + int.from_bytes(stream[at + 4 : at + 8], "little")
        records.append((at, stream[at : at + size]))
        at += size
    return records


def raw_record(
    sequence: int, kind: int, payload: bytes, *, flags: int = 0, size: int | None = None
) -> bytes:
    """Return a record with right checksums and whatever else is asked for."""
    size = len(payload) if size is None else size
    checked = kind.to_bytes(2, "little") + flags.to_bytes(2, "little") + size.to_bytes(4, "little")
    if kind == RecordType.PAGES and len(payload) >= 16:
        runs = payload[16 : 16 + 16 * int.from_bytes(payload[:2], "little")]
        check = xxhash.xxh3_64_intdigest(checked + payload[:8] + runs, seed=sequence)
        payload = payload[:8] + check.to_bytes(8, "little") + payload[16:]
    value = xxhash.xxh3_64_intdigest(checked + payload, seed=sequence)
    return checked + value.to_bytes(8, "little") + payload
