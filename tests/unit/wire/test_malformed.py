"""Payloads with sound checksums and unsound content: each is refused, with its place."""

import struct

import pytest

from tagalong.errors import LocalProtocolError, RemoteProtocolError
from tagalong.wire import (
    Accept,
    ChannelRecord,
    Held,
    Hello,
    MachineRecord,
    Phase,
    Record,
    RecordType,
    RegionEntry,
    Resume,
    Role,
    Round,
    StateRecord,
)
from tagalong.wire.codec import PAYLOAD_BYTES, VERSION
from tests.support.cases import check_each
from tests.support.malformed_payloads import (
    ANSWERS,
    CASES,
    HEADER,
    ZSTD_128,
    Case,
    hello,
    pages,
    zstd,
    zstd_data,
)
from tests.support.wire_session import (
    DESTINATION,
    JOINING,
    MACHINE,
    MIGRATION_ID,
    PAGE,
    PREVIEW,
    RAM,
    SOURCE,
    X0,
    Pair,
    pair_in,
    raw_record,
    records_said_by,
)


def refused(phase: Phase, kind: int, payload: bytes, sender: Role = SOURCE) -> tuple[str, int]:
    """Return the message and the offset in the record with which `payload` is refused."""
    listener = pair_in(phase).end(sender.peer)
    start = listener.bytes_received
    prefix = b"" if start else b"TAGALONG" + VERSION.to_bytes(8, "little")
    listener.receive_data(prefix + raw_record(records_said_by(sender, phase), kind, payload))
    with pytest.raises(RemoteProtocolError) as caught:
        listener.next_record()
    with pytest.raises(RemoteProtocolError) as again:
        listener.next_record()
    assert again.value is caught.value
    return str(caught.value), caught.value.offset - (start or len(prefix))


def name(case: Case) -> str:
    phase, kind, payload, offset, message = case
    return f"{kind.name} in {phase.name} of {payload[:64].hex()}, {message!r} at {offset:#x}"


def check_refused(case: Case, sender: Role = SOURCE) -> None:
    phase, kind, payload, offset, message = case
    said, where = refused(phase, kind, payload, sender)

    assert message in said
    assert where == HEADER + offset


def test_answer_malformed_is_refused_at_its_offset() -> None:
    check_each(ANSWERS, lambda case: check_refused(case, DESTINATION), name)


def test_held_pages_that_overlap_are_refused() -> None:
    pair = pair_in(Phase.RESUMING)
    pair.say(DESTINATION, Held(RAM, 8, b"x"))

    with pytest.raises(LocalProtocolError, match="from 0x40008000 on"):
        pair.destination.send(Held(RAM + 7 * PAGE, 8, b"x"))


def test_compressed_data_of_another_size_are_refused() -> None:
    said, where = refused(Phase.COPYING, RecordType.PAGES, zstd_data(bytes(4095)))

    assert "compressed data declare 0xfff bytes, not 0x1000" in said
    assert where == HEADER + 32


@pytest.mark.parametrize("record", [ChannelRecord(MIGRATION_ID, 1), Resume(1)])
def test_connection_that_joins_nothing_is_refused(record: Record) -> None:
    pair = pair_in(Phase.AGREED if isinstance(record, Resume) else Phase.START)

    with pytest.raises(LocalProtocolError, match="no migration is under way"):
        pair.source.send(record)


def test_connection_that_joins_describes_no_machine() -> None:
    pair = pair_in(Phase.AGREED, joining=JOINING)

    with pytest.raises(LocalProtocolError, match="a connection that resumes describes no machine"):
        pair.source.send(MACHINE)


def test_hello_of_another_migration_is_refused_where_one_is_under_way() -> None:
    pair = Pair.new(joining=JOINING)

    with pytest.raises(LocalProtocolError, match="is not the one under way"):
        pair.source.send(Hello(SOURCE, bytes(16)))


def test_payload_malformed_is_refused_at_its_offset() -> None:
    check_each(CASES, check_refused, name)


def test_register_cut_off_is_refused_at_the_register() -> None:
    payload = struct.pack("<6I", 2, 0, 0, 0, 0, 1) + struct.pack("<Q", X0) + bytes(7)

    said, where = refused(Phase.COPYING, RecordType.STATE, payload)

    assert "register 0x6030000000100000 takes 0x8 bytes, but 0x7 are left" in said
    assert where == HEADER + 24


@pytest.mark.parametrize("kind", list(RecordType))
def test_payload_length_outside_of_the_limits_is_refused_before_the_payload(
    kind: RecordType,
) -> None:
    smallest, largest = PAYLOAD_BYTES[kind]
    for size in {max(smallest - 1, 0), largest + 1, 0xFFFF_FFFF} - {smallest}:
        listener = pair_in(Phase.COPYING).destination
        start = listener.bytes_received
        listener.receive_data(raw_record(3, kind, b"", size=size)[:HEADER])

        with pytest.raises(RemoteProtocolError, match="payload of") as caught:
            listener.next_record()

        assert f"a {kind.name} payload of {size:#x} bytes" in str(caught.value)
        assert caught.value.offset == start + 4


@pytest.mark.parametrize("kind", [0, 20, 0xFFFF])
def test_record_type_unknown_is_refused(kind: int) -> None:
    said, where = refused(Phase.COPYING, kind, b"")

    assert f"{kind:#x} is not a record type" in said
    assert where == 0


def test_record_flags_are_refused() -> None:
    listener = pair_in(Phase.COPYING).destination
    start = listener.bytes_received
    listener.receive_data(raw_record(3, RecordType.ROUND, bytes(16), flags=0x8000))

    with pytest.raises(RemoteProtocolError, match="ROUND has the flags 0x8000") as caught:
        listener.next_record()

    assert caught.value.offset == start + 2


def test_batch_with_bytes_left_over_is_refused() -> None:
    said, where = refused(Phase.COPYING, RecordType.PAGES, pages(rest=b"more"))

    assert "the batch takes a payload of 0x28 bytes, not 0x2c" in said
    assert where == 4


def test_compressed_tags_without_the_feature_are_refused() -> None:
    pair = Pair.new()
    pair.say(SOURCE, Hello(SOURCE, MIGRATION_ID, compatible_features=0))
    pair.say(DESTINATION, Hello(DESTINATION, MIGRATION_ID))
    pair.say(SOURCE, MACHINE)
    pair.say(SOURCE, PREVIEW)
    pair.destination.send(Accept())
    pair.destination.receive_data(raw_record(3, RecordType.PAGES, zstd(ZSTD_128)))

    with pytest.raises(RemoteProtocolError, match="the feature ZSTD is not in use"):
        pair.destination.next_record()


def test_tags_on_a_machine_without_tags_are_refused() -> None:
    pair = Pair.new()
    pair.say(SOURCE, Hello(SOURCE, MIGRATION_ID))
    pair.say(DESTINATION, Hello(DESTINATION, MIGRATION_ID))
    pair.say(SOURCE, MachineRecord(PAGE, 1, 0, (RegionEntry(RAM, PAGE),)))
    pair.say(SOURCE, StateRecord(PREVIEW.vcpus[:1]))
    pair.destination.send(Accept())
    pair.destination.receive_data(raw_record(3, RecordType.PAGES, pages(tags=2)))

    with pytest.raises(RemoteProtocolError, match="ZERO on a machine without tags") as caught:
        pair.destination.next_record()

    assert "tag encoding ZERO" in str(caught.value)


def test_hello_with_another_migration_id_is_refused() -> None:
    payload = hello(id=bytes(16), role=2)

    said, where = refused(Phase.HELLO_SENT, RecordType.HELLO, payload, DESTINATION)

    assert f"migration id {'00' * 16} answers {MIGRATION_ID.hex()}" in said
    assert where == HEADER + 16


def test_hello_demanding_what_was_not_offered_is_refused() -> None:
    pair = Pair.new()
    pair.say(SOURCE, Hello(SOURCE, MIGRATION_ID, compatible_features=0))
    with pytest.raises(LocalProtocolError, match="the destination demands the features 0x1"):
        pair.destination.send(Hello(DESTINATION, MIGRATION_ID, mandatory_features=1))


def test_round_answer_with_other_numbers_is_refused() -> None:
    for payload, field in [((2, 0, 0), "number"), ((1, 0, 9), "page_count")]:
        pair = pair_in(Phase.COPYING)
        pair.say(SOURCE, Round(1, 0))
        pair.source.receive_data(raw_record(3, RecordType.ROUND, struct.pack("<IIQ", *payload)))
        with pytest.raises(RemoteProtocolError, match=f"the destination's round has the {field}"):
            pair.source.next_record()


@pytest.mark.parametrize(
    ("start", "offset", "message"),
    [
        (b"QEVM" + bytes(12), 0, "does not start a tagalong stream"),
        (
            b"TAGALONG\1\0\0\0\0\0\0\0",
            8,
            "version 0x1 of the stream, this end 0x2, 0x3, 0x4",
        ),
        (b"TAGALONG\2\0\0\0\1\0\0\0", 12, "a reserved field is 0x1 and must be zero"),
    ],
)
def test_stream_header_of_something_else_is_refused(
    start: bytes, offset: int, message: str
) -> None:
    destination = Pair.new().destination
    destination.receive_data(start)

    with pytest.raises(RemoteProtocolError) as caught:
        destination.next_record()

    assert message in str(caught.value)
    assert caught.value.offset == offset
