"""The frozen streams: they are still read, still written, and no damage to them is overlooked."""

from itertools import pairwise

import pytest

from tagalong.errors import RemoteProtocolError
from tagalong.wire import NoBytes, Pages, Role
from tests.golden.build_streams import PATHS
from tests.support.wire_session import SCRIPT, hear, records_in, streams

GOLDEN = {role: path.read_bytes() for role, path in PATHS.items()}
ROLES = pytest.mark.parametrize("sender", list(Role), ids=lambda role: role.name.lower())


def script_of(sender: Role) -> list[object]:
    return [record for role, record in SCRIPT if role is sender]


@ROLES
def test_golden_stream_read_gives_the_script(sender: Role) -> None:
    assert hear(sender.peer, GOLDEN[sender]) == script_of(sender)


@ROLES
def test_golden_stream_written_again_has_the_same_bytes(sender: Role) -> None:
    frozen = records_in(GOLDEN[sender])
    written = records_in(streams()[sender])

    assert GOLDEN[sender][:16] == streams()[sender][:16]
    assert len(frozen) == len(written)
    for record, before, now in zip(script_of(sender), frozen, written, strict=True):
        # Another release of the Zstandard library may compress the same tags differently.
        if not (isinstance(record, Pages) and record.data is NoBytes.ZERO):
            assert now[1] == before[1], f"{record} at {before[0]:#x}"


@ROLES
def test_golden_stream_cut_at_every_byte_is_refused(sender: Role) -> None:
    stream = GOLDEN[sender]
    for size in range(len(stream)):
        with pytest.raises(RemoteProtocolError, match="the stream ends in") as caught:
            hear(sender.peer, stream[:size])
        assert caught.value.offset == size


@ROLES
def test_golden_stream_with_any_bit_flipped_is_refused(sender: Role) -> None:
    stream = bytearray(GOLDEN[sender])
    for place in range(len(stream)):
        for bit in range(8):
            stream[place] ^= 1 << bit
            with pytest.raises(RemoteProtocolError) as caught:
                hear(sender.peer, bytes(stream))
            assert caught.value.offset <= len(stream)
            stream[place] ^= 1 << bit


@ROLES
def test_golden_stream_with_any_record_lost_is_refused(sender: Role) -> None:
    stream = GOLDEN[sender]
    for at, record in records_in(stream):
        with pytest.raises(RemoteProtocolError):
            hear(sender.peer, stream[:at] + stream[at + len(record) :])


@ROLES
def test_golden_stream_with_any_record_repeated_is_refused(sender: Role) -> None:
    stream = GOLDEN[sender]
    for at, record in records_in(stream)[:-1]:
        with pytest.raises(RemoteProtocolError):
            hear(sender.peer, stream[:at] + record + stream[at:])


@ROLES
def test_golden_stream_with_any_two_records_exchanged_is_refused(sender: Role) -> None:
    stream = GOLDEN[sender]
    records = records_in(stream)
    for (first, one), (_, other) in pairwise(records):
        rest = first + len(one) + len(other)
        with pytest.raises(RemoteProtocolError):
            hear(sender.peer, stream[:first] + other + one + stream[rest:])


@ROLES
def test_golden_stream_with_bytes_after_its_end_is_refused(sender: Role) -> None:
    if sender is Role.DESTINATION:
        with pytest.raises(RemoteProtocolError, match="bytes follow the last record"):
            hear(sender.peer, GOLDEN[sender] + b"x")
    else:  # the destination has the last word: what the source says after it goes unheard
        assert hear(sender.peer, GOLDEN[sender] + b"x") == script_of(sender)
