"""The transition table in action: everything in it works, everything else is refused."""

import struct

import pytest

from tagalong.errors import LocalProtocolError, RemoteProtocolError
from tagalong.wire import (
    NEED_DATA,
    TRANSITIONS,
    Abort,
    AbortReason,
    Hello,
    Phase,
    RecordType,
    Role,
    Round,
)
from tagalong.wire.codec import PAYLOAD_BYTES, VERSION
from tests.support.cases import check_each
from tests.support.wire_session import (
    DESTINATION,
    JOINING,
    MIGRATION_ID,
    SAMPLES,
    SCRIPT,
    SOURCE,
    Pair,
    pair_in,
    raw_record,
    records_said_by,
)

Case = tuple[Phase, Role, RecordType]

EVERYTHING: list[Case] = [(phase, role, kind) for phase in Phase for role in Role
                          for kind in RecordType]  # fmt: skip
FORBIDDEN = [case for case in EVERYTHING if case not in TRANSITIONS]


def name(case: Case) -> str:
    phase, role, kind = case
    return f"{phase.name}-{role.name}-{kind.name}".lower()


def test_script_passes_through_the_exact_sequence_of_phases() -> None:
    pair = Pair.new()
    phases = []
    for role, record in SCRIPT:
        assert pair.say(role, record) == record
        assert pair.source.phase is pair.destination.phase
        phases.append(pair.source.phase.name)

    assert phases == [
        "HELLO_SENT", "AGREED", "DESCRIBED", "PREVIEWED", "PREVIEWED", "COPYING", "COPYING",
        "COPYING", "ROUND_ENDED", "COPYING", "COPYING", "COPYING", "COPYING", "ROUND_ENDED",
        "COPYING", "STATE_SENT", "VERIFYING", "DIGEST_SENT", "VERIFIED", "PREPARED", "READY",
        "COMMITTED", "DONE",
    ]  # fmt: skip


def test_record_sent_in_the_wrong_phase_raises_and_changes_nothing() -> None:
    assert len(FORBIDDEN) > 500
    check_each(FORBIDDEN, check_sending_is_refused, name)


def check_sending_is_refused(case: Case) -> None:
    phase, role, kind = case
    end = pair_in(phase).end(role)
    sent = end.bytes_sent

    with pytest.raises(LocalProtocolError) as caught:
        end.send(SAMPLES[kind])

    names = [each.name for at, sender, each in TRANSITIONS if (at, sender) == (phase, role)]
    possible = ", ".join(names) or "nothing"
    assert str(caught.value).endswith(
        f"must not send {kind.name} in {phase.name}: possible are {possible}"
    )
    assert caught.value.offset == sent == end.bytes_sent
    assert end.phase is phase


# An end in a final phase receives nothing more; test_connection.py has what the other one hears.
def test_record_received_in_the_wrong_phase_raises_before_its_payload() -> None:
    cases = [case for case in FORBIDDEN if not case[0].is_final]
    assert len(cases) > 500
    check_each(cases, check_receiving_is_refused, name)


def check_receiving_is_refused(case: Case) -> None:
    phase, role, kind = case
    listener = pair_in(phase).end(role.peer)
    start = listener.bytes_received
    header = b"" if start else b"TAGALONG" + VERSION.to_bytes(8, "little")
    start = start or len(header)
    payload = bytes(PAYLOAD_BYTES[kind][0])
    record = raw_record(records_said_by(role, phase), kind, payload)

    listener.receive_data(header + record[:16])
    with pytest.raises(RemoteProtocolError) as caught:
        listener.next_record()

    assert f"must not send {kind.name} in {phase.name}" in str(caught.value)
    assert caught.value.offset == start


def test_record_allowed_by_the_table_moves_both_ends_alike() -> None:
    check_each(TRANSITIONS, check_both_ends_move, name)


def check_both_ends_move(case: Case) -> None:
    phase, role, kind = case
    joins = kind in (RecordType.CHANNEL, RecordType.RESUME)
    is_ahead = (phase, kind) == (Phase.PREPARED, RecordType.COMMIT)
    pair = pair_in(phase, joining=JOINING if joins else None, tags_only=is_ahead)
    record = SAMPLES[kind]
    if kind is RecordType.HELLO:
        record = Hello(role, MIGRATION_ID)
    if kind is RecordType.ROUND and phase is Phase.COPYING:
        record = Round(1, 0)
    if kind is RecordType.ROUND and phase is Phase.ROUND_ENDED:
        record = Round(1, 0x100)
    if kind is RecordType.ROUND and phase is Phase.ATTACHED:
        record = Round(2, 0)
    if kind is RecordType.ROUND and phase is Phase.CHANNEL_ROUND_ENDED:
        record = Round(2, 1)

    assert pair.say(role, record) == record

    assert pair.source.phase is pair.destination.phase is TRANSITIONS[case]


def test_destination_heard_late_still_aborts_after_the_commit() -> None:
    pair = pair_in(Phase.READY)
    commit = pair.source.send(SAMPLES[RecordType.COMMIT])
    given_up = pair.destination.send(Abort(AbortReason.HOST, "no COMMIT came in time"))

    pair.source.receive_data(b"".join(given_up))
    pair.destination.receive_data(b"".join(commit))

    assert pair.source.next_record() == Abort(AbortReason.HOST, "no COMMIT came in time")
    assert pair.destination.next_record() is NEED_DATA
    assert pair.source.phase is pair.destination.phase is Phase.ABORTED


@pytest.mark.parametrize("role", Role)
def test_commit_of_a_whole_vm_before_ready_is_refused(role: Role) -> None:
    pair = pair_in(Phase.PREPARED)
    said = records_said_by(SOURCE, Phase.PREPARED)
    words = "COMMIT of a whole VM must not be sent before READY has come"

    if role is SOURCE:
        with pytest.raises(LocalProtocolError, match=words):
            pair.source.send(SAMPLES[RecordType.COMMIT])
    else:
        pair.destination.receive_data(raw_record(said, RecordType.COMMIT, struct.pack("<II", 1, 0)))
        with pytest.raises(RemoteProtocolError, match=words):
            pair.destination.next_record()


def test_destination_that_answers_prepare_first_takes_a_commit_that_came_ahead() -> None:
    pair = pair_in(Phase.PREPARED, tags_only=True)
    commit = pair.source.send(SAMPLES[RecordType.COMMIT])

    ready = pair.destination.send(SAMPLES[RecordType.READY])
    pair.destination.receive_data(b"".join(commit))
    received = pair.destination.next_record()
    pair.source.receive_data(b"".join(ready))
    pair.source.next_record()

    assert received == SAMPLES[RecordType.COMMIT]
    assert pair.source.phase is pair.destination.phase is Phase.COMMITTED


def test_table_allows_no_record_at_the_end() -> None:
    assert not [key for key in TRANSITIONS if key[0].is_final]
    assert (Phase.COMMITTED, DESTINATION, RecordType.ABORT) in TRANSITIONS
    committed = (Phase.COMMITTED, Phase.COMMITTED_AHEAD)
    assert not [key for key in TRANSITIONS if key[0] in committed and key[1] is SOURCE]
