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
    ChannelRecord,
    Commit,
    Connection,
    DeviceEntry,
    Digest,
    EndRecord,
    Feature,
    GicEntry,
    GicStateEntry,
    Held,
    Hello,
    Joining,
    KeepAlive,
    MachineRecord,
    NoBytes,
    Pages,
    Phase,
    Placement,
    Power,
    Prepare,
    Ready,
    Record,
    RecordType,
    RegionEntry,
    Resume,
    Resumed,
    Role,
    Round,
    Run,
    Running,
    Runs,
    StateRecord,
    VcpuEntry,
    Verify,
)

PAGE = 4096
RAM = 0x4000_0000
MIGRATION_ID = bytes(range(0xA0, 0xB0))
MACHINE = MachineRecord(
    page_size_bytes=PAGE,
    vcpu_count=2,
    mte_version=3,
    regions=(RegionEntry(RAM, 0x10_0000), RegionEntry(RAM + 0x20_0000, 0x8000)),
    devices=(
        DeviceEntry("pl011", "pl011", 0x0900_0000, 0x1000),
        DeviceEntry("disk0", "virtio-blk", 0x0A00_0000, 0x200, 48, b"\x01\x00\x00\x02"),
    ),
    gic=GicEntry(0x0800_0000, 0x080A_0000, 32),
)

SOURCE, DESTINATION = Role.SOURCE, Role.DESTINATION


def plane(content: bytes) -> memoryview:
    return memoryview(content)


RAW_DATA = plane(bytes(number * 7 % 251 for number in range(PAGE)))
RAW_TAGS = plane(bytes(number * 89 % 256 for number in range(PAGE // 32)))
RUN_TAGS = plane(b"\x11" * 100 + b"\x22" * 156)
TEXT_DATA = plane(b"tagalong" * (PAGE // 8))
EVEN_TAGS = plane(b"\x55" * (PAGE // 32))

X0 = 0x6030_0000_0010_0000
STATE = StateRecord(
    vcpus=(
        VcpuEntry(Power.ON, {X0: 0x1234, 0x6030_0000_0013_C086: 0x1_0001}),
        VcpuEntry(Power.OFF, {0x6020_0000_0010_00D4: 0x10, 0x6040_0000_0010_0054: 1 << 127}),
    ),
    devices={"pl011": b"\x01\x00", "psci": b""},
    gic=GicStateEntry(
        distributor={0x0000: 0x52, 0x0104: 0x1_0000},
        redistributors=({0x1_0100: 0x0800_FFFF}, {0x1_0100: 0xFFFF}),
        cpu_interfaces=({0xC230: 0xF0, 0xC667: 1}, {}),
        spi_levels=(0x1_0000,),
        ppi_levels=(0x0800_0000, 0),
    ),
)
PREVIEW = StateRecord(
    vcpus=(VcpuEntry(Power.ON, {**STATE.vcpus[0].registers, X0: 0x1000}), STATE.vcpus[1]),
    devices=STATE.devices,
    gic=STATE.gic,
)
DIGEST = bytes(range(16))
FEATURES = int(Feature.ZSTD | Feature.CHANNELS | Feature.RESUME)
"""What releases offer that do not know TAG_RUNS; their frozen streams are still written."""

SCRIPT: tuple[tuple[Role, Record], ...] = (
    (SOURCE, Hello(SOURCE, MIGRATION_ID, compatible_features=FEATURES)),
    (DESTINATION, Hello(DESTINATION, MIGRATION_ID, compatible_features=FEATURES)),
    (SOURCE, MACHINE),
    (SOURCE, PREVIEW),
    (DESTINATION, KeepAlive()),
    (DESTINATION, Accept()),
    (SOURCE, Pages(Runs([Run(RAM, 1)]), (RAW_DATA,), RAW_TAGS)),
    (SOURCE, Pages(Runs([Run(RAM + 0x1000, 0xFF)]), NoBytes.ZERO, NoBytes.ZERO)),
    (SOURCE, Round(1, 0x100)),
    (DESTINATION, Round(1, 0x100)),
    (SOURCE, Pages(Runs([Run(RAM, 1), Run(RAM + 0x20_0000, 1)]), NoBytes.ZERO, RUN_TAGS)),
    (SOURCE, Pages(Runs([Run(RAM, 1)]), NoBytes.KEPT, EVEN_TAGS)),
    (SOURCE, Pages(Runs([Run(RAM + 0x1000, 1)]), (TEXT_DATA,), NoBytes.ZERO, level=1)),
    (SOURCE, Round(2, 4)),
    (DESTINATION, Round(2, 4)),
    (SOURCE, STATE),
    (SOURCE, Verify()),
    (SOURCE, Digest(DIGEST)),
    (DESTINATION, Digest(DIGEST)),
    (SOURCE, Prepare()),
    (DESTINATION, Ready()),
    (SOURCE, Commit(run=True)),
    (DESTINATION, Running()),
)
"""A migration with verification over one connection."""

CHANNEL_SCRIPT: tuple[tuple[Role, Record], ...] = (
    (SOURCE, ChannelRecord(MIGRATION_ID, 1)),
    (DESTINATION, ChannelRecord(MIGRATION_ID, 1)),
    (SOURCE, Pages(Runs([Run(RAM + 0x2000, 1)]), NoBytes.ZERO, EVEN_TAGS)),
    (SOURCE, KeepAlive()),
    (SOURCE, Round(2, 1)),
    (DESTINATION, Round(2, 1)),
    (SOURCE, EndRecord()),
)
"""One more connection of that migration, from its second round on."""

RESUME_SCRIPT: tuple[tuple[Role, Record], ...] = (
    (SOURCE, Hello(SOURCE, MIGRATION_ID, reconnect_s=60, compatible_features=FEATURES)),
    (DESTINATION, Hello(DESTINATION, MIGRATION_ID, reconnect_s=60, compatible_features=FEATURES)),
    (SOURCE, Resume(1)),
    (DESTINATION, Held(RAM, 12, b"\x0f\x08")),
    (DESTINATION, Held(RAM + 0x20_0000, 1, b"\x01")),
    (DESTINATION, Resumed(1)),
    (SOURCE, Pages(Runs([Run(RAM + 0x4000, 1)]), NoBytes.ZERO, EVEN_TAGS)),
    (SOURCE, Round(2, 1)),
    (DESTINATION, Round(2, 1)),
    (SOURCE, Abort(AbortReason.CANCELLED, "asked for")),
)
"""A connection on which that migration goes on in its second round, and is cancelled."""

JOINING = Joining(MIGRATION_ID, MACHINE, FEATURES, rounds=1)

HEAP_TAGS = plane(
    bytes([0x33] * 40 + [0x73] + [0x77] * 30 + [0x07] + [0x00] * 40 + [0x99] * 15 + [0x94])
)
RUNS_SCRIPT: tuple[tuple[Role, Record], ...] = (
    (SOURCE, Hello(SOURCE, MIGRATION_ID)),
    (DESTINATION, Hello(DESTINATION, MIGRATION_ID)),
    (SOURCE, MACHINE),
    (SOURCE, PREVIEW),
    (DESTINATION, Accept()),
    (SOURCE, Pages(Runs([Run(RAM, 1)]), NoBytes.ZERO, HEAP_TAGS)),
    (SOURCE, Pages(Runs([Run(RAM, 2)]), NoBytes.KEPT, plane(bytes(256 - 8) + bytes([0x50] * 8)))),
    (SOURCE, Round(1, 3)),
    (DESTINATION, Round(1, 3)),
    (SOURCE, Abort(AbortReason.CANCELLED, "asked for")),
)
"""A migration whose ends both know TAG_RUNS, cancelled after its first round."""


AHEAD_SCRIPT: tuple[tuple[Role, Record], ...] = (
    (SOURCE, Hello(SOURCE, MIGRATION_ID, mandatory_features=Feature.TAGS_ONLY)),
    (DESTINATION, Hello(DESTINATION, MIGRATION_ID, mandatory_features=Feature.TAGS_ONLY)),
    *SCRIPT[2:6],
    (SOURCE, Pages(Runs([Run(RAM, 1)]), NoBytes.KEPT, EVEN_TAGS)),
    (SOURCE, STATE),
    (SOURCE, Prepare()),
    (SOURCE, Commit(run=True)),
    (DESTINATION, Ready()),
    (DESTINATION, Running()),
)
"""Tags without data, committed before the destination was ready."""


@dataclass(frozen=True)
class Play:
    """A script, and what both ends know before it begins."""

    script: Sequence[tuple[Role, Record]]
    joining: Joining | None = None
    tags_only: bool = False


PLAYS = {
    "main": Play(SCRIPT),
    "channel": Play(CHANNEL_SCRIPT, JOINING),
    "resume": Play(RESUME_SCRIPT, JOINING),
    "runs": Play(RUNS_SCRIPT),
}

AHEAD = Play(AHEAD_SCRIPT, tags_only=True)

SAMPLES: dict[RecordType, Record] = {
    **{record.type: record for play in reversed(PLAYS.values()) for _, record in play.script},
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
    def new(
        cls,
        placement: Placement | None = None,
        joining: Joining | None = None,
        *,
        tags_only: bool = False,
    ) -> "Pair":
        return cls(
            Connection(SOURCE, joining, tags_only=tags_only),
            Connection(DESTINATION, joining, placement, tags_only=tags_only),
        )

    def end(self, role: Role) -> Connection:
        return self.source if role is SOURCE else self.destination

    def say(self, role: Role, record: Record) -> Record:
        self.end(role.peer).receive_data(joined(self.end(role).send(record)))
        received = self.end(role.peer).next_record()
        assert received is not NEED_DATA
        assert self.end(role.peer).next_record() is NEED_DATA or self.source.phase.is_final
        return received


def play_to(phase: Phase, *, tags_only: bool = False) -> Play:
    """Return the records that bring a conversation to `phase`."""
    for play in (AHEAD,) if tags_only else (*PLAYS.values(), AHEAD):
        connection = Pair.new(joining=play.joining, tags_only=play.tags_only)
        for number, (role, record) in enumerate(play.script):
            if connection.source.phase is phase:
                return Play(play.script[:number], play.joining, play.tags_only)
            connection.say(role, record)
    return Play(PLAYS["resume"].script if phase is Phase.ABORTED else SCRIPT, JOINING)


def pair_in(
    phase: Phase,
    placement: Placement | None = None,
    joining: Joining | None = None,
    *,
    tags_only: bool = False,
) -> Pair:
    """Return both ends of a conversation that a script has brought to `phase`."""
    play = play_to(phase, tags_only=tags_only)
    if phase is Phase.DONE:
        play = PLAYS["main"]
    pair = Pair.new(placement, joining or play.joining, tags_only=play.tags_only)
    for role, record in play.script:
        pair.say(role, record)
    assert pair.source.phase is phase
    return pair


def records_said_by(role: Role, before: Phase) -> int:
    """Return how many records `role` has sent when pair_in(before) is reached."""
    return sum(sender is role for sender, _ in play_to(before).script)


def streams(play: Play = PLAYS["main"]) -> dict[Role, bytes]:
    """Return what a script puts on the wire in each direction."""
    pair = Pair.new(joining=play.joining)
    sent = {SOURCE: b"", DESTINATION: b""}
    for role, record in play.script:
        buffers = joined(pair.end(role).send(record))
        pair.end(role.peer).receive_data(buffers)
        pair.end(role.peer).next_record()
        sent[role] += buffers
    return sent


def hear(listener: Role, heard: bytes, play: Play = PLAYS["main"]) -> list[Record]:
    """Play one end of a script against a recorded stream; return what it accepted.

    Every record of the listener's own is sent at its place in the script. Raises what the
    connection raises; at the end of `heard` the connection is told so.
    """
    connection = Connection(listener, joining=play.joining)
    connection.receive_data(heard)
    accepted: list[Record] = []
    for role, record in play.script:
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
        return checked + sealed_pages(sequence, checked, payload)
    value = xxhash.xxh3_64_intdigest(checked + payload, seed=sequence)
    return checked + value.to_bytes(8, "little") + payload


def sealed_pages(sequence: int, checked: bytes, payload: bytes) -> bytes:
    """Return checksum and payload of a batch with the seal at its end put right."""
    runs, encoding, tag_bytes = int.from_bytes(payload[:2], "little"), payload[2], payload[4:8]
    data_at = 16 + 16 * runs + int.from_bytes(tag_bytes, "little")
    data = payload[data_at:-8]
    value = xxhash.xxh3_64_intdigest(checked + payload[: min(data_at, len(payload))], seed=sequence)
    size = {1: PAGE, 3: max(1, len(data))}.get(encoding)
    pieces = [data[at : at + size] for at in range(0, len(data), size)] if size else []
    digests = b"".join(xxhash.xxh3_64_digest(piece)[::-1] for piece in pieces)
    seal = xxhash.xxh3_64_digest(value.to_bytes(8, "little") + digests, seed=sequence)[::-1]
    return value.to_bytes(8, "little") + payload[:-8] + seal
