"""Records that are unsound are not sent and change nothing; texts are made to fit."""

import struct
from dataclasses import replace
from typing import Any

import pytest

from tagalong.errors import LocalProtocolError
from tagalong.wire import (
    Abort,
    AbortReason,
    Buffer,
    Commit,
    Hello,
    MachineRecord,
    NoBytes,
    Pages,
    Phase,
    Power,
    Record,
    RecordType,
    Role,
    Round,
    Run,
    Runs,
    StateRecord,
    VcpuEntry,
    limits,
)
from tests.support.wire_session import (
    DESTINATION,
    MACHINE,
    MIGRATION_ID,
    PAGE,
    RAM,
    SOURCE,
    STATE,
    X0,
    joined,
    pair_in,
    raw_record,
    records_said_by,
)

ONE = Runs([Run(RAM, 1)])


def zero_pages(*runs: Run) -> Pages:
    return Pages(Runs(runs), NoBytes.ZERO, NoBytes.ZERO)


def with_gic(**changes: Any) -> StateRecord:
    assert STATE.gic is not None
    return replace(STATE, gic=replace(STATE.gic, **changes))


WRONG_TO_SEND: list[tuple[Phase, Role, Record, str]] = [
    (Phase.START, SOURCE, Hello(SOURCE, b"short"), "migration_id has 0x5 bytes, not 0x10"),
    (Phase.START, SOURCE, Hello(SOURCE, MIGRATION_ID, 1 << 64), "do not fit their fields"),
    (Phase.START, SOURCE, Hello(DESTINATION, MIGRATION_ID), "the peer is a destination too"),
    (Phase.AGREED, SOURCE, MachineRecord(PAGE, 1, 3, ()), "region_count is 0x0"),
    (Phase.AGREED, SOURCE, MachineRecord(1000, 1, 3, MACHINE.regions), "page_size_bytes is 0x3e8"),
    (Phase.COPYING, SOURCE, Pages(Runs([]), NoBytes.ZERO, NoBytes.ZERO), "0x0 runs"),
    (Phase.COPYING, SOURCE, zero_pages(Run(0, 1)), "are not in one region"),
    (Phase.COPYING, SOURCE, Pages(ONE, NoBytes.ABSENT, NoBytes.ZERO), "never absent"),
    (Phase.COPYING, SOURCE, Pages(ONE, NoBytes.ZERO, NoBytes.KEPT), "tags are never kept"),
    (Phase.COPYING, SOURCE, Pages(ONE, NoBytes.ZERO, NoBytes.ABSENT), "tag encoding ABSENT"),
    (
        Phase.COPYING,
        SOURCE,
        Pages(ONE, (memoryview(bytes(100)),), NoBytes.ZERO),
        "0x64 bytes of data for a batch that has 0x1000",
    ),
    (
        Phase.COPYING,
        SOURCE,
        Pages(ONE, NoBytes.ZERO, memoryview(bytes([1]) * 500)),
        "0x1f4 bytes of tags for a batch that has 0x80",
    ),
    (Phase.COPYING, SOURCE, Round(1, 1), "round has the page_count 0x1, not 0x0"),
    (Phase.COPYING, SOURCE, StateRecord(STATE.vcpus[:1]), "a state of 0x1 vCPUs"),
    (
        Phase.COPYING,
        SOURCE,
        replace(STATE, vcpus=(VcpuEntry(Power.ON, {X0: 1 << 64}), STATE.vcpus[1])),
        "register 0x6030000000100000 cannot hold 0x10000000000000000: it has 0x8 bytes",
    ),
    (
        Phase.COPYING,
        SOURCE,
        replace(STATE, vcpus=(VcpuEntry(Power.ON, {1 << 64: 1}), STATE.vcpus[1])),
        "0x10000000000000000 is not a register id of 64 bits",
    ),
    (Phase.COPYING, SOURCE, replace(STATE, devices={"a b": b""}), "is not a device name"),
    (Phase.COPYING, SOURCE, StateRecord(STATE.vcpus), "one of MACHINE and STATE has a GIC"),
    (Phase.COPYING, SOURCE, with_gic(ppi_levels=(0,)), "a GIC of 0x1 vCPUs in a state of 0x2"),
    (Phase.COPYING, SOURCE, with_gic(spi_levels=(-1,)), "-0x1 is no word of levels"),
    (Phase.COPYING, SOURCE, with_gic(distributor={0: 1 << 32}), "do not fit their fields"),
    (Phase.COPYING, SOURCE, with_gic(cpu_interfaces=({}, {1: -1})), "do not fit their fields"),
    (
        Phase.COPYING,
        SOURCE,
        replace(STATE, devices={"uart": bytes(limits.MAX_DEVICE_STATE_BYTES + 1)}),
        "0x100001 bytes in a device's state",
    ),
    (
        Phase.COPYING,
        SOURCE,
        replace(
            STATE, devices={f"d{n:02}": bytes(limits.MAX_DEVICE_STATE_BYTES) for n in range(32)}
        ),
        "a state of 0x2000",
    ),
]


@pytest.mark.parametrize(("phase", "role", "record", "message"), WRONG_TO_SEND)
def test_record_unsound_is_not_sent_and_changes_nothing(
    phase: Phase, role: Role, record: Record, message: str
) -> None:
    end = pair_in(phase).end(role)
    sent = end.bytes_sent

    with pytest.raises(LocalProtocolError, match=message):
        end.send(record)

    assert (end.bytes_sent, end.phase) == (sent, phase)


@pytest.mark.parametrize(
    ("text", "arrives"),
    [
        ("tabs\tand\x1b[31m colours", "tabs and [31m colours"),
        ("ä" * 4000, "ä" * 2048),
        ("x" + "ä" * 4000, "x" + "ä" * 2047),
        ("lone \ud800 surrogate", "lone   surrogate"),
        ("turned \u202e around\u2028and split", "turned   around and split"),
    ],
)
def test_abort_text_of_any_kind_is_made_to_fit(text: str, arrives: str) -> None:
    pair = pair_in(Phase.COPYING)

    received = pair.say(DESTINATION, Abort(AbortReason.HOST, text))

    assert received == Abort(AbortReason.HOST, arrives)


def test_abort_text_with_a_character_that_is_unassigned_here_arrives() -> None:
    destination = pair_in(Phase.COPYING).destination
    text = "no \u0378".encode()
    payload = struct.pack("<II", 7, len(text)) + text

    destination.receive_data(
        raw_record(records_said_by(SOURCE, Phase.COPYING), RecordType.ABORT, payload)
    )

    assert destination.next_record() == Abort(AbortReason.HOST, "no \ufffd")


def test_commit_for_a_paused_guest_arrives() -> None:
    pair = pair_in(Phase.READY)

    assert pair.say(SOURCE, Commit(run=False)) == Commit(run=False)


def test_tags_all_zero_cost_nothing_on_the_wire() -> None:
    pair = pair_in(Phase.COPYING)
    zero: list[Buffer] = pair.source.send(
        Pages(Runs([Run(RAM, 4)]), NoBytes.ZERO, memoryview(bytes(512)))
    )

    assert len(joined(zero)) == 56
    pair.destination.receive_data(joined(zero))
    assert pair.destination.next_record() == zero_pages(Run(RAM, 4))
