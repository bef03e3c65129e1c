"""Headers, and the payload of every record but PAGES (see `planes`): bytes from and to values.

A payload is checked here by itself, whoever sends it and whatever was sent before; `conversation`
checks whether it may come now.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tagalong.binary.layout import Buffer, Layout, MalformedError
from tagalong.wire import limits
from tagalong.wire.foreign import describe_foreign
from tagalong.wire.machine import (
    MACHINE_BYTES,
    MACHINE_BYTES_V2,
    MACHINE_BYTES_V3,
    decode_machine,
    decode_machine_v2,
    decode_machine_v3,
    encode_machine,
)
from tagalong.wire.machine_state import (
    STATE_BYTES,
    STATE_BYTES_V3,
    decode_state,
    decode_state_v3,
    encode_state,
)
from tagalong.wire.payload import require_choice, require_count
from tagalong.wire.planes import PAGES_HEAD, RUN, SEAL_BYTES
from tagalong.wire.records import (
    Abort,
    AbortReason,
    Accept,
    ChannelRecord,
    Commit,
    Digest,
    EndRecord,
    Held,
    Hello,
    KeepAlive,
    Prepare,
    Ready,
    Record,
    RecordType,
    Resume,
    Resumed,
    Role,
    Round,
    Running,
    Verify,
)
from tagalong.wire.text import decode_text, presentable

MAGIC = b"TAGALONG"
VERSION = 4
"""What this end speaks unless the peer spoke first."""

VERSIONS = (2, 3, VERSION)
"""What this end understands: the older ones are in files, and are what an older source speaks."""

MIGRATION_ID_BYTES = 16
DIGEST_BYTES = 16

STREAM_HEADER = Layout(("magic", 8), ("version", "u32"), ("reserved", "u32"))
RECORD_HEADER = Layout(
    ("type", "u16"), ("flags", "u16"), ("payload_bytes", "u32"), ("checksum", "u64")
)
CHECKED_HEADER_BYTES = RECORD_HEADER.offsets["checksum"]
"""What the checksum covers of the header: all bytes before it."""

HELLO = Layout(
    ("compatible_features", "u64"),
    ("mandatory_features", "u64"),
    ("migration_id", MIGRATION_ID_BYTES),
    ("role", "u32"),
    ("channels", "u32"),
    ("reconnect_s", "u32"),
    ("reserved", "u32"),
)
ROUND = Layout(("number", "u32"), ("reserved", "u32"), ("page_count", "u64"))
DIGEST = Layout(("digest", DIGEST_BYTES))
COMMIT = Layout(("run", "u32"), ("reserved", "u32"))
ABORT_HEAD = Layout(("reason", "u32"), ("text_bytes", "u32"))
CHANNEL = Layout(("migration_id", MIGRATION_ID_BYTES), ("number", "u32"), ("reserved", "u32"))
RESUME = Layout(("rounds", "u32"), ("reserved", "u32"))
HELD_HEAD = Layout(("first_gpa", "u64"), ("page_count", "u64"))
RESUMED = Layout(("rounds", "u32"), ("reserved", "u32"))

_NOTHING = (0, 0)
PAYLOAD_BYTES: dict[RecordType, tuple[int, int]] = {
    RecordType.HELLO: (HELLO.size, HELLO.size),
    RecordType.MACHINE: MACHINE_BYTES,
    RecordType.ACCEPT: _NOTHING,
    RecordType.PAGES: (
        PAGES_HEAD.size + RUN.size + SEAL_BYTES,
        PAGES_HEAD.size
        + RUN.size * limits.MAX_RUNS
        + limits.MAX_BATCH_BYTES
        + limits.MAX_BATCH_TAG_BYTES
        + SEAL_BYTES,
    ),
    RecordType.ROUND: (ROUND.size, ROUND.size),
    RecordType.STATE: STATE_BYTES,
    RecordType.VERIFY: _NOTHING,
    RecordType.DIGEST: (DIGEST.size, DIGEST.size),
    RecordType.PREPARE: _NOTHING,
    RecordType.READY: _NOTHING,
    RecordType.COMMIT: (COMMIT.size, COMMIT.size),
    RecordType.RUNNING: _NOTHING,
    RecordType.ABORT: (ABORT_HEAD.size, ABORT_HEAD.size + limits.MAX_ABORT_TEXT_BYTES),
    RecordType.KEEPALIVE: _NOTHING,
    RecordType.CHANNEL: (CHANNEL.size, CHANNEL.size),
    RecordType.END: _NOTHING,
    RecordType.RESUME: (RESUME.size, RESUME.size),
    RecordType.HELD: (HELD_HEAD.size + 1, HELD_HEAD.size + limits.MAX_HELD_PAGES // 8),
    RecordType.RESUMED: (RESUMED.size, RESUMED.size),
}
"""The smallest and the largest payload of each record type."""

_V3_PAYLOAD_BYTES = {
    **PAYLOAD_BYTES,
    RecordType.MACHINE: MACHINE_BYTES_V3,
    RecordType.STATE: STATE_BYTES_V3,
}
_PAYLOAD_BYTES_OF = {
    2: {**_V3_PAYLOAD_BYTES, RecordType.MACHINE: MACHINE_BYTES_V2},
    3: _V3_PAYLOAD_BYTES,
    VERSION: PAYLOAD_BYTES,
}


def pages_overhead_bytes(run_count: int) -> int:
    """Return the size of a PAGES record of so many runs without its data and tags."""
    return RECORD_HEADER.size + PAGES_HEAD.size + run_count * RUN.size + SEAL_BYTES


def encode_stream_header(version: int) -> bytes:
    """Return the first bytes of a stream."""
    return STREAM_HEADER.pack(magic=MAGIC, version=version)


def decode_stream_header(header: Buffer) -> int:
    """Return the version of the stream that begins so.

    Raises MalformedError unless these are the first bytes of a stream of a known version.
    """
    magic = bytes(header[: len(MAGIC)])
    if magic != MAGIC:
        raise MalformedError(
            f"{magic!r} does not start a tagalong stream: "
            f"{describe_foreign(magic) or f'{MAGIC!r} does'}"
        )
    version: int = STREAM_HEADER.unpack(header)["version"]
    if version not in VERSIONS:
        known = ", ".join(f"{each:#x}" for each in VERSIONS)
        raise MalformedError(
            f"the peer speaks version {version:#x} of the stream, this end {known}: "
            "use the same release of tagalong at both ends",
            offset=STREAM_HEADER.offsets["version"],
        )
    return version


@dataclass(frozen=True)
class RecordHeader:
    """A record header that is sound in itself; `checked` are the bytes under the checksum."""

    type: RecordType
    payload_bytes: int
    checksum: int
    checked: bytes


def decode_record_header(header: Buffer, version: int = VERSION) -> RecordHeader:
    """Return the header of a record of a stream of `version`.

    Raises MalformedError for an unknown type, a flag, or a bad size.
    """
    values = RECORD_HEADER.unpack(header)
    try:
        kind = RecordType(values["type"])
    except ValueError:
        raise MalformedError(f"{values['type']:#x} is not a record type") from None
    if values["flags"]:
        raise MalformedError(
            f"{kind.name} has the flags {values['flags']:#x}: no flag is defined",
            offset=RECORD_HEADER.offsets["flags"],
        )
    _require_payload_bytes(kind, values["payload_bytes"], version)
    return RecordHeader(
        kind, values["payload_bytes"], values["checksum"], bytes(header[:CHECKED_HEADER_BYTES])
    )


def checked_header(kind: RecordType, payload_bytes: int) -> bytes:
    """Return the part of a record's header that is under the checksum.

    Raises MalformedError if no record of this type has a payload of this size.
    """
    _require_payload_bytes(kind, payload_bytes, VERSION)
    header = RECORD_HEADER.pack(type=kind, flags=0, payload_bytes=payload_bytes, checksum=0)
    return header[:CHECKED_HEADER_BYTES]


def _require_payload_bytes(kind: RecordType, size_bytes: int, version: int) -> None:
    smallest, largest = _PAYLOAD_BYTES_OF[version][kind]
    if not smallest <= size_bytes <= largest:
        raise MalformedError(
            f"a {kind.name} payload of {size_bytes:#x} bytes, where {smallest:#x} to "
            f"{largest:#x} are possible",
            offset=RECORD_HEADER.offsets["payload_bytes"],
        )


def encode_payload(record: Record) -> bytes:
    """Return the payload of any record but PAGES. Raises MalformedError for a bad value."""
    encode = _ENCODERS.get(record.type)
    return encode(record) if encode else b""


def decode_payload(kind: RecordType, payload: Buffer, version: int = VERSION) -> Record:
    """Return the record of any type but PAGES; the inverse of `encode_payload`.

    `version`: of the stream; one of VERSIONS. Raises MalformedError, its offset counted from
    the payload's start.
    """
    return _DECODERS_OF[version][kind](payload)


def _encode_hello(hello: Hello) -> bytes:
    return HELLO.pack(
        compatible_features=hello.compatible_features,
        mandatory_features=hello.mandatory_features,
        migration_id=hello.migration_id,
        role=hello.role,
        channels=hello.channels,
        reconnect_s=hello.reconnect_s,
    )


def _decode_hello(payload: Buffer) -> Hello:
    values = HELLO.unpack(payload)
    try:
        role = Role(values.pop("role"))
    except ValueError as error:
        raise MalformedError(f"unknown role: {error}", offset=HELLO.offsets["role"]) from None
    require_count(HELLO, values, "channels", limits.MAX_CHANNELS)
    if values["reconnect_s"] > limits.MAX_RECONNECT_S:
        raise MalformedError(
            f"reconnect_s is {values['reconnect_s']:#x}, possible are 0x0 to "
            f"{limits.MAX_RECONNECT_S:#x}",
            offset=HELLO.offsets["reconnect_s"],
        )
    del values["reserved"]
    return Hello(role=role, **values)


def _decode_round(payload: Buffer) -> Round:
    values = ROUND.unpack(payload)
    return Round(number=values["number"], page_count=values["page_count"])


def _decode_commit(payload: Buffer) -> Commit:
    values = COMMIT.unpack(payload)
    require_choice(COMMIT, values, "run", (0, 1))
    return Commit(run=bool(values["run"]))


def _decode_channel(payload: Buffer) -> ChannelRecord:
    values = CHANNEL.unpack(payload)
    require_count(CHANNEL, values, "number", limits.MAX_CHANNELS - 1)
    return ChannelRecord(values["migration_id"], values["number"])


def _encode_held(held: Held) -> bytes:
    payload = HELD_HEAD.pack(first_gpa=held.first_gpa, page_count=held.page_count) + held.bits
    _decode_held(payload)
    return payload


def _decode_held(payload: Buffer) -> Held:
    values = HELD_HEAD.unpack(payload)
    require_count(HELD_HEAD, values, "page_count", limits.MAX_HELD_PAGES)
    bits = bytes(payload[HELD_HEAD.size :])
    count = values["page_count"]
    if len(bits) != -(-count // 8):
        raise MalformedError(
            f"{count:#x} pages take {-(-count // 8):#x} bytes of bits, but {len(bits):#x} follow",
            offset=HELD_HEAD.offsets["page_count"],
        )
    if count % 8 and bits[-1] >> count % 8:
        raise MalformedError(
            f"bits are set beyond the last of {count:#x} pages", offset=len(payload) - 1
        )
    return Held(bits=bits, **values)


def _encode_abort(abort: Abort) -> bytes:
    text = presentable(abort.text)
    return ABORT_HEAD.pack(reason=abort.reason, text_bytes=len(text)) + text


def _decode_abort(payload: Buffer) -> Abort:
    values = ABORT_HEAD.unpack(payload)
    try:
        reason = AbortReason(values["reason"])
    except ValueError:
        raise MalformedError(f"{values['reason']:#x} is not a reason to abort") from None
    raw = bytes(payload[ABORT_HEAD.size :])
    if len(raw) != values["text_bytes"]:
        raise MalformedError(
            f"a text of {values['text_bytes']:#x} bytes, but {len(raw):#x} follow",
            offset=ABORT_HEAD.offsets["text_bytes"],
        )
    return Abort(reason, decode_text(raw, ABORT_HEAD.size))


_ENCODERS: dict[RecordType, Callable[[Any], bytes]] = {
    RecordType.HELLO: _encode_hello,
    RecordType.MACHINE: encode_machine,
    RecordType.ROUND: lambda it: ROUND.pack(number=it.number, page_count=it.page_count),
    RecordType.STATE: encode_state,
    RecordType.DIGEST: lambda it: DIGEST.pack(digest=it.digest),
    RecordType.COMMIT: lambda it: COMMIT.pack(run=it.run),
    RecordType.ABORT: _encode_abort,
    RecordType.CHANNEL: lambda it: CHANNEL.pack(migration_id=it.migration_id, number=it.number),
    RecordType.RESUME: lambda it: RESUME.pack(rounds=it.rounds),
    RecordType.HELD: _encode_held,
    RecordType.RESUMED: lambda it: RESUMED.pack(rounds=it.rounds),
}

_DECODERS: dict[RecordType, Callable[[Buffer], Record]] = {
    RecordType.HELLO: _decode_hello,
    RecordType.MACHINE: decode_machine,
    RecordType.ACCEPT: lambda _: Accept(),
    RecordType.ROUND: _decode_round,
    RecordType.STATE: decode_state,
    RecordType.VERIFY: lambda _: Verify(),
    RecordType.DIGEST: lambda payload: Digest(**DIGEST.unpack(payload)),
    RecordType.PREPARE: lambda _: Prepare(),
    RecordType.READY: lambda _: Ready(),
    RecordType.COMMIT: _decode_commit,
    RecordType.RUNNING: lambda _: Running(),
    RecordType.ABORT: _decode_abort,
    RecordType.KEEPALIVE: lambda _: KeepAlive(),
    RecordType.CHANNEL: _decode_channel,
    RecordType.END: lambda _: EndRecord(),
    RecordType.RESUME: lambda payload: Resume(RESUME.unpack(payload)["rounds"]),
    RecordType.HELD: _decode_held,
    RecordType.RESUMED: lambda payload: Resumed(RESUMED.unpack(payload)["rounds"]),
}

_V3_DECODERS: dict[RecordType, Callable[[Buffer], Record]] = {
    **_DECODERS,
    RecordType.MACHINE: decode_machine_v3,
    RecordType.STATE: decode_state_v3,
}
_DECODERS_OF = {
    2: {**_V3_DECODERS, RecordType.MACHINE: decode_machine_v2},
    3: _V3_DECODERS,
    VERSION: _DECODERS,
}
