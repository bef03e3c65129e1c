"""The frozen streams: they are still read, still written, and no damage to them is overlooked."""

import os
from dataclasses import replace
from itertools import pairwise

import pytest

from tagalong.errors import RemoteProtocolError
from tagalong.wire import (
    NEED_DATA,
    Connection,
    DeviceEntry,
    MachineRecord,
    NoBytes,
    Pages,
    Record,
    Role,
    StateRecord,
)
from tests.golden.build_streams import OLDER_NAMES, OLDER_PATHS, PATHS
from tests.support.wire_session import PLAYS, Play, joined, records_in, streams
from tests.support.wire_session import hear as hear_play

GOLDEN = {which: path.read_bytes() for which, path in PATHS.items()}
BOTH = pytest.mark.parametrize("which", list(PATHS), ids=lambda it: f"{it[0]}-{it[1].name.lower()}")
Which = tuple[str, Role]


def script_of(which: Which) -> list[Record]:
    name, sender = which
    return [record for role, record in PLAYS[name].script if role is sender]


def hear(which: Which, stream: bytes) -> list[Record]:
    name, sender = which
    return hear_play(sender.peer, stream, PLAYS[name])


def has_last_word(which: Which) -> bool:
    name, sender = which
    return PLAYS[name].script[-1][0] is sender


V2_DEVICES = (DeviceEntry("pl011", "pl011", 0x0900_0000, 0x1000),)
"""What a machine had when MACHINE did not yet name devices."""


def as_in(version: int, record: Record) -> Record:
    """Return what a stream of an older version holds in place of `record`."""
    match record:
        case MachineRecord():
            devices = V2_DEVICES if version == 2 else record.devices
            return replace(record, devices=devices, gic=None)
        case StateRecord():
            return replace(record, gic=None)
    return record


def as_play_in(version: int, play: Play) -> Play:
    script = [(role, as_in(version, record)) for role, record in play.script]
    return replace(
        play, script=script, joining=play.joining and replace(play.joining, version=version)
    )


def answered(stream: bytes, play: Play) -> tuple[list[Record], bytes]:
    """Return what a destination accepts from a source's stream, and what it answers."""
    destination = Connection(Role.DESTINATION, joining=play.joining)
    destination.receive_data(stream)
    accepted: list[Record] = []
    answer = b""
    for role, record in play.script:
        if role is Role.SOURCE:
            received = destination.next_record()
            assert received is not NEED_DATA
            accepted.append(received)
        else:
            answer += joined(destination.send(record))
    return accepted, answer


def test_golden_stream_of_an_older_version_is_read_and_answered_as_by_its_release() -> None:
    for version, paths in OLDER_PATHS.items():
        for name in OLDER_NAMES:
            play = as_play_in(version, PLAYS[name])
            script = [record for role, record in play.script if role is Role.SOURCE]

            accepted, answer = answered(paths[name, Role.SOURCE].read_bytes(), play)

            assert accepted == script, (version, name)
            assert answer == paths[name, Role.DESTINATION].read_bytes(), (version, name)


def test_golden_stream_of_an_older_version_cut_anywhere_is_refused() -> None:
    for version, paths in OLDER_PATHS.items():
        play = as_play_in(version, PLAYS["main"])
        stream = paths["main", Role.SOURCE].read_bytes()
        starts = [at for at, _ in records_in(stream)]
        around = {at + place for at in starts for place in (-1, 0, 1, 15, 16, 17)}
        # Every byte of the stream of today is tried below.
        for size in sorted(
            {size for size in around if size < len(stream)} | {*range(0, len(stream), 17)}
        ):
            with pytest.raises(RemoteProtocolError, match="the stream ends in") as caught:
                hear_play(Role.DESTINATION, stream[:size], play)
            assert caught.value.offset == size


def test_golden_answer_of_an_older_version_to_a_stream_of_this_one_is_refused() -> None:
    for version, paths in OLDER_PATHS.items():
        for name in OLDER_NAMES:
            with pytest.raises(
                RemoteProtocolError, match=f"the destination speaks version {version:#x}"
            ) as caught:
                hear((name, Role.DESTINATION), paths[name, Role.DESTINATION].read_bytes())
            assert caught.value.offset == 8


def test_golden_channel_of_an_older_version_is_refused_by_a_migration_of_this_one() -> None:
    for paths in OLDER_PATHS.values():
        for name in ("channel", "resume"):
            with pytest.raises(RemoteProtocolError, match="the migration began in 0x4"):
                hear((name, Role.SOURCE), paths[name, Role.SOURCE].read_bytes())


def test_golden_stream_of_version_1_is_refused() -> None:
    stream = b"TAGALONG" + (1).to_bytes(8, "little")

    with pytest.raises(RemoteProtocolError, match="the peer speaks version 0x1 of the stream"):
        hear(("main", Role.SOURCE), stream)


@BOTH
def test_golden_stream_read_gives_the_script(which: Which) -> None:
    assert hear(which, GOLDEN[which]) == script_of(which)


@BOTH
def test_golden_stream_written_again_has_the_same_bytes(which: Which) -> None:
    frozen = records_in(GOLDEN[which])
    written = records_in(streams(PLAYS[which[0]])[which[1]])

    assert GOLDEN[which][:16] == streams(PLAYS[which[0]])[which[1]][:16]
    assert len(frozen) == len(written)
    for record, before, now in zip(script_of(which), frozen, written, strict=True):
        # Another release of the Zstandard library may compress the same tags differently.
        if not (isinstance(record, Pages) and (record.level or record.data is NoBytes.ZERO)):
            assert now[1] == before[1], f"{record} at {before[0]:#x}"


def places_in(stream: bytes) -> list[int]:
    """Return the bytes of a stream to cut or damage: all around headers, some of long payloads.

    With TAGALONG_LONG all of them (`make fuzz`).
    """
    headers = [0, *(at for at, _ in records_in(stream)), len(stream)]
    around = {at + place for at in headers for place in range(-8, 40)}
    step = 1 if "TAGALONG_LONG" in os.environ else 5
    return [at for at in range(len(stream)) if at in around or at % step == 0]


@BOTH
def test_golden_stream_cut_anywhere_is_refused(which: Which) -> None:
    stream = GOLDEN[which]
    for size in places_in(stream):
        with pytest.raises(RemoteProtocolError, match="the stream ends in") as caught:
            hear(which, stream[:size])
        assert caught.value.offset == size


@BOTH
def test_golden_stream_with_any_bit_flipped_is_refused(which: Which) -> None:
    stream = bytearray(GOLDEN[which])
    # Every bit of each header, and a bit of other bytes: what follows a header has one checksum.
    headers = {0, *(at for at, _ in records_in(bytes(stream)))}
    flips = [(at + place, bit) for at in headers for place in range(16) for bit in range(8)]
    flips += [(place, place % 8) for place in places_in(bytes(stream))]
    for place, bit in flips:
        stream[place] ^= 1 << bit
        with pytest.raises(RemoteProtocolError) as caught:
            hear(which, bytes(stream))
        assert caught.value.offset <= len(stream)
        stream[place] ^= 1 << bit


@BOTH
def test_golden_stream_with_any_record_lost_is_refused(which: Which) -> None:
    stream = GOLDEN[which]
    for at, record in records_in(stream):
        with pytest.raises(RemoteProtocolError):
            hear(which, stream[:at] + stream[at + len(record) :])


@BOTH
def test_golden_stream_with_any_record_repeated_is_refused(which: Which) -> None:
    stream = GOLDEN[which]
    for at, record in records_in(stream)[:-1]:
        with pytest.raises(RemoteProtocolError):
            hear(which, stream[:at] + record + stream[at:])


@BOTH
def test_golden_stream_with_any_two_records_exchanged_is_refused(which: Which) -> None:
    stream = GOLDEN[which]
    records = records_in(stream)
    for (first, one), (_, other) in pairwise(records):
        rest = first + len(one) + len(other)
        with pytest.raises(RemoteProtocolError):
            hear(which, stream[:first] + other + one + stream[rest:])


@BOTH
def test_golden_stream_with_bytes_after_its_end_is_refused(which: Which) -> None:
    if has_last_word(which):
        with pytest.raises(RemoteProtocolError, match="bytes follow the last record"):
            hear(which, GOLDEN[which] + b"x")
    else:  # what is said after the last word goes unheard
        assert hear(which, GOLDEN[which] + b"x") == script_of(which)
