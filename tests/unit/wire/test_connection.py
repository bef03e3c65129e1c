"""One end by itself: portions of any size, placement, the end of the stream, errors for ever."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from tagalong.errors import LocalProtocolError, RemoteProtocolError
from tagalong.wire import (
    NEED_DATA,
    Abort,
    AbortReason,
    Batch,
    Connection,
    KeepAlive,
    NoBytes,
    OwnMemory,
    Pages,
    Phase,
    RecordType,
    Role,
    Round,
    Run,
    Runs,
)
from tagalong.wire.integrity import page_digests
from tests.support.wire_session import (
    PAGE,
    RAM,
    RAW_DATA,
    RAW_TAGS,
    SAMPLES,
    SCRIPT,
    SOURCE,
    STATE,
    joined,
    pair_in,
    raw_record,
    streams,
)


def play(connection: Connection, heard: bytes, portion: int) -> list[object]:
    """Run the script with `heard` arriving in portions of `portion` bytes."""
    accepted: list[object] = []
    at = 0
    for role, record in SCRIPT:
        if role is connection.role:
            connection.send(record)
            continue
        while (received := connection.next_record()) is NEED_DATA:
            connection.receive_data(heard[at : at + portion])
            at += portion
        accepted.append(received)
    return accepted


@pytest.mark.parametrize("portion", [1, 2, 3, 7, 39, 40, 41, 4096, 100_000])
@pytest.mark.parametrize("role", list(Role))
def test_stream_in_portions_gives_the_same_records(role: Role, portion: int) -> None:
    connection = Connection(role)

    accepted = play(connection, streams()[role.peer], portion)

    assert accepted == [record for sender, record in SCRIPT if sender is role.peer]
    assert connection.phase is Phase.DONE
    assert connection.bytes_received == len(streams()[role.peer])
    assert connection.bytes_sent == len(streams()[role])


class RamPlacement(OwnMemory):
    """Places data into `ram`, a piece for each run; records the runs that it was asked about."""

    def __init__(self) -> None:
        self.ram = bytearray(0x10_0000)
        self.asked: list[Runs] = []

    def data(self, batch: Batch) -> Sequence[memoryview]:
        self.asked.append(batch.runs)
        ram = memoryview(self.ram)
        return tuple(
            ram[run.first_gpa - RAM :][: run.page_count * batch.page_size_bytes]
            for run in batch.runs
        )


def test_receive_buffer_leads_data_straight_to_their_place() -> None:
    placement = RamPlacement()
    ram = placement.ram
    pair = pair_in(Phase.COPYING, placement)
    incoming = joined(pair.source.send(Pages(Runs([Run(RAM + PAGE, 1)]), (RAW_DATA,), RAW_TAGS)))

    steps = fill(pair.destination, incoming)

    assert placement.asked == [Runs([Run(RAM + PAGE, 1)])]
    assert ram[PAGE : 2 * PAGE] == RAW_DATA
    assert not any(ram[:PAGE])
    assert not any(ram[2 * PAGE :])
    assert steps == [16, 16, 16, 128, PAGE, 8]


def fill(destination: Connection, incoming: bytes) -> list[int]:
    """Receive through receive_buffer until a record comes; return the sizes asked for."""
    steps = []
    at = 0
    while destination.next_record() is NEED_DATA:
        buffer = destination.receive_buffer()
        steps.append(len(buffer))
        buffer[:] = incoming[at : at + len(buffer)]
        at += len(buffer)
        destination.received(len(buffer))
    return steps


def test_receive_buffer_while_bytes_wait_to_be_parsed_raises() -> None:
    destination = pair_in(Phase.COPYING).destination
    destination.receive_data(b"\x05")

    with pytest.raises(LocalProtocolError, match="no bytes can be taken in COPYING"):
        destination.receive_buffer()


def test_receive_buffer_after_the_end_raises() -> None:
    source = pair_in(Phase.DONE).source

    with pytest.raises(LocalProtocolError, match="no bytes can be taken in DONE"):
        source.receive_buffer()


def test_data_of_several_runs_land_in_the_pieces_of_the_placement() -> None:
    placement = RamPlacement()
    pair = pair_in(Phase.COPYING, placement)
    runs = Runs([Run(RAM, 1), Run(RAM + 3 * PAGE, 2)])
    data = (memoryview(b"a" * PAGE), memoryview(b"b" * PAGE + b"c" * PAGE))

    steps = fill(pair.destination, joined(pair.source.send(Pages(runs, data, NoBytes.ZERO))))

    assert steps == [16, 16, 32, PAGE, 2 * PAGE, 8]
    assert placement.ram[:PAGE] == b"a" * PAGE
    assert placement.ram[3 * PAGE : 5 * PAGE] == b"b" * PAGE + b"c" * PAGE
    assert not any(placement.ram[PAGE : 3 * PAGE])


def test_awaited_data_filled_by_other_means_are_the_record() -> None:
    placement = RamPlacement()
    pair = pair_in(Phase.COPYING, placement)
    batch = Pages(Runs([Run(RAM, 1)]), (RAW_DATA,), RAW_TAGS)
    incoming = joined(pair.source.send(batch))
    at = incoming.index(RAW_DATA)
    pair.destination.receive_data(incoming[:at])
    assert pair.destination.next_record() is NEED_DATA

    landing = pair.destination.awaited_data
    assert landing is not None
    landing[0][:] = RAW_DATA
    pair.destination.data_received(page_digests((RAW_DATA,), PAGE))
    pair.destination.receive_data(incoming[at + PAGE :])

    assert pair.destination.next_record() == batch
    assert pair.destination.awaited_data is None
    assert pair.destination.bytes_received == pair.source.bytes_sent


def test_runs_of_values_that_are_no_u64_raise() -> None:
    with pytest.raises(OverflowError):
        Runs([Run(-PAGE, 1)])


def test_payload_memory_grows_with_the_bytes_that_arrive() -> None:
    destination = pair_in(Phase.COPYING).destination
    header = raw_record(3, RecordType.STATE, b"", size=32 << 20)[:16]
    destination.receive_data(header)

    assert destination.next_record() is NEED_DATA
    assert len(destination.receive_buffer()) == 64 << 10


@pytest.mark.parametrize("phase", [phase for phase in Phase if not phase.is_final])
def test_eof_before_the_end_is_an_error_for_ever(phase: Phase) -> None:
    for end in (pair_in(phase).source, pair_in(phase).destination):
        with pytest.raises(RemoteProtocolError, match=f"the stream ends in {phase.name}") as caught:
            end.receive_eof()
        with pytest.raises(RemoteProtocolError) as again:
            end.next_record()
        assert again.value is caught.value
        assert caught.value.offset == end.bytes_received


@pytest.mark.parametrize("phase", [Phase.DONE, Phase.ABORTED])
def test_eof_at_the_end_is_right(phase: Phase) -> None:
    for end in (pair_in(phase).source, pair_in(phase).destination):
        end.receive_eof()
        assert end.next_record() is NEED_DATA


def test_eof_inside_of_a_record_says_how_far_it_came() -> None:
    destination = pair_in(Phase.COPYING).destination
    start = destination.bytes_received
    destination.receive_data(raw_record(3, RecordType.ROUND, bytes(16))[:21])
    assert destination.next_record() is NEED_DATA

    with pytest.raises(RemoteProtocolError, match="COPYING, 0x15 bytes into a record") as caught:
        destination.receive_eof()

    assert caught.value.offset == start + 21


def test_after_the_peers_error_only_abort_can_be_sent() -> None:
    pair = pair_in(Phase.COPYING)
    pair.destination.receive_data(b"\xff" * 16)
    with pytest.raises(RemoteProtocolError, match="0xffff is not a record type"):
        pair.destination.next_record()

    with pytest.raises(LocalProtocolError, match="only ABORT may follow an error of the peer"):
        pair.destination.send(KeepAlive())
    abort = Abort(AbortReason.PROTOCOL, "your bytes are wrong")
    pair.source.receive_data(joined(pair.destination.send(abort)))

    assert pair.source.next_record() == abort


def test_bytes_after_the_peers_last_record_are_an_error() -> None:
    pair = pair_in(Phase.COPYING)
    abort = joined(pair.destination.send(SAMPLES[RecordType.ABORT]))

    pair.source.receive_data(abort + b"more")
    assert pair.source.next_record() == SAMPLES[RecordType.ABORT]

    with pytest.raises(RemoteProtocolError, match="bytes follow the last record"):
        pair.source.next_record()


def test_bytes_after_our_own_last_record_are_ignored() -> None:
    pair = pair_in(Phase.COPYING)
    pages = joined(pair.source.send(Pages(Runs([Run(RAM, 1)]), NoBytes.ZERO, NoBytes.ZERO)))
    pair.destination.send(SAMPLES[RecordType.ABORT])

    pair.destination.receive_data(pages)

    assert pair.destination.next_record() is NEED_DATA
    pair.destination.receive_eof()


def test_data_changed_after_they_were_sealed_are_detected() -> None:
    pair = pair_in(Phase.COPYING)
    live = bytearray(RAW_DATA)
    buffers = pair.source.send(Pages(Runs([Run(RAM, 1)]), (memoryview(live),), RAW_TAGS))
    live[100] ^= 1

    pair.destination.receive_data(joined(buffers))

    with pytest.raises(RemoteProtocolError, match=r"seal .* of record 0x3 \(PAGES\)"):
        pair.destination.next_record()


def test_head_damaged_is_detected_before_anything_is_placed() -> None:
    placement = RamPlacement()
    pair = pair_in(Phase.COPYING, placement)
    sent = bytearray(joined(pair.source.send(Pages(Runs([Run(RAM, 1)]), (RAW_DATA,), RAW_TAGS))))
    sent[16 + 16 + 1] ^= 0x10  # the gpa

    pair.destination.receive_data(sent[:-9])

    with pytest.raises(RemoteProtocolError, match=r"checksum .* of record 0x3 \(PAGES\)"):
        pair.destination.next_record()
    assert not placement.asked


def test_state_of_many_chunks_arrives_whole() -> None:
    pair = pair_in(Phase.COPYING)
    state = replace(STATE, devices={"disk": bytes(range(256)) * 4000, "uart": b"x" * 70_000})

    incoming = joined(pair.source.send(state))
    steps = fill(pair.destination, incoming)

    assert max(steps) == 64 << 10
    assert sum(steps) == len(incoming)
    assert pair.destination.phase is Phase.STATE_SENT


def test_eof_after_an_error_is_the_same_error() -> None:
    pair = pair_in(Phase.COPYING)
    pair.source.receive_data(b"\xff" * 16)
    with pytest.raises(RemoteProtocolError) as caught:
        pair.source.next_record()

    with pytest.raises(RemoteProtocolError) as again:
        pair.source.receive_eof()

    assert again.value is caught.value


def test_data_are_sent_without_a_copy() -> None:
    source = pair_in(Phase.COPYING).source

    buffers = source.send(Pages(Runs([Run(RAM, 1)]), (RAW_DATA,), RAW_TAGS))

    assert buffers[-2] is RAW_DATA


def test_features_are_in_use_once_both_have_said_hello() -> None:
    assert pair_in(Phase.HELLO_SENT).source.features == 0
    assert pair_in(Phase.AGREED).source.features == 0b111


def test_rounds_count_their_pages() -> None:
    pair = pair_in(Phase.COPYING)
    pair.say(SOURCE, Pages(Runs([Run(RAM, 3)]), NoBytes.ZERO, NoBytes.ZERO))
    pair.say(SOURCE, Pages(Runs([Run(RAM, 2)]), NoBytes.ZERO, NoBytes.ZERO))

    assert pair.say(SOURCE, Round(1, 5)) == Round(1, 5)
    assert pair.say(Role.DESTINATION, Round(1, 5)) == Round(1, 5)
    assert pair.say(SOURCE, Round(2, 0)) == Round(2, 0)


def test_tags_are_received_where_the_placement_says() -> None:
    memory = memoryview(bytearray(2 * len(RAW_TAGS)))
    asked: list[int] = []

    class TagMemory(OwnMemory):
        def tags(self, size_bytes: int) -> memoryview:
            asked.append(size_bytes)
            return memory[:size_bytes]

    pair = pair_in(Phase.COPYING, TagMemory())
    for tags in (RAW_TAGS, RAW_TAGS[::-1]):
        batch = Pages(Runs([Run(RAM, 1)]), (RAW_DATA,), memoryview(bytes(tags)))
        fill(pair.destination, joined(pair.source.send(batch)))

        assert memory[: len(RAW_TAGS)] == tags
        assert not any(memory[len(RAW_TAGS) :])
    assert asked == [len(RAW_TAGS)] * 2


def test_stream_that_begins_like_something_else_is_named() -> None:
    cases = {
        b"\x7fELF\x02\x01\x01": "this is an ELF file: `tagalong info FILE`",
        b"\x28\xb5\x2f\xfd": "this is Zstandard data",
        b"\x1f\x8b\x08\x00": "this is gzip data",
        b"QEVM\x00\x00\x00\x03": "this is a migration stream of QEMU",
        b"\x15\x03\x01\x00\x02\x02\x46": "the peer speaks TLS and this end does not",
        b"\x16\x03\x01\x02\x00": "the peer speaks TLS and this end does not",
        b"HTTP/1.1 400": "the peer speaks HTTP",
        b"what?": "the stream ends in START, 0x5 bytes into a record",
    }
    for start, said in cases.items():
        short, long = Connection(Role.DESTINATION), Connection(Role.DESTINATION)

        short.receive_data(start)
        assert short.next_record() is NEED_DATA
        with pytest.raises(RemoteProtocolError) as at_end:
            short.receive_eof()
        long.receive_data(start.ljust(16, b"."))
        with pytest.raises(RemoteProtocolError, match="does not start a tagalong stream") as caught:
            long.next_record()

        assert said in str(at_end.value)
        assert start == b"what?" or said in str(caught.value)
