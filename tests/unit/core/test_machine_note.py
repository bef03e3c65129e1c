"""The vendor note: whole machines there and back, any damage refused."""

from dataclasses import replace

import pytest
import xxhash

from tagalong.binary.layout import MalformedError
from tagalong.core.machine_note import (
    MACHINE_NOTE,
    decode_machine_note,
    encode_machine_note,
)
from tagalong.core.space import Space
from tagalong.errors import UsageError
from tagalong.machine import MachineState, RegisterId
from tests.support.cores import notes
from tests.support.gic_state import GIC, gic_state

WITHOUT_GIC = replace(notes(vcpus=2, space=Space.KERNEL), vcpu=1, running=True)
NOTES = replace(
    WITHOUT_GIC,
    description=replace(WITHOUT_GIC.description, gic=GIC),
    state=replace(WITHOUT_GIC.state, gic=gic_state(vcpus=2)),
)
NOTE = encode_machine_note(NOTES)
HEAD = MACHINE_NOTE.unpack(NOTE)
PAYLOAD = NOTE[MACHINE_NOTE.size :]


def sealed(fields: dict[str, int], payload: bytes) -> bytes:
    """Return a note with the checksum that its other bytes need."""
    unchecked = MACHINE_NOTE.pack(**{**fields, "checksum": 0})
    checksum = xxhash.xxh3_64_intdigest(unchecked[: MACHINE_NOTE.offsets["checksum"]] + payload)
    return MACHINE_NOTE.pack(**{**fields, "checksum": checksum}) + payload


def test_machine_note_decoded_is_what_was_encoded() -> None:
    assert decode_machine_note(NOTE) == NOTES


def test_machine_note_cut_at_every_byte_is_refused() -> None:
    for size in range(len(NOTE)):
        with pytest.raises(MalformedError):
            decode_machine_note(NOTE[:size])


def test_machine_note_with_any_bit_flipped_is_refused() -> None:
    damaged = bytearray(NOTE)
    for place in range(len(damaged)):
        damaged[place] ^= 1 << place % 8
        with pytest.raises(MalformedError):
            decode_machine_note(damaged)
        damaged[place] ^= 1 << place % 8


@pytest.mark.parametrize(
    ("changes", "offset", "message"),
    [
        (
            {"version": 4},
            0,
            "version 0x4, this release of tagalong reads 0x1, 0x2, 0x3",
        ),
        ({"space": 3}, 4, "space is 0x3, possible are 0x0 to 0x2"),
        ({"vcpu": 2}, 8, "vcpu is 0x2, the machine has 0x2 vCPUs"),
        ({"running": 3}, 12, "running is 0x3, possible are 0x0 to 0x2"),
        ({"machine_bytes": 1 << 30}, 16, "take 0x40000"),
    ],
)
def test_machine_note_with_a_bad_head_names_the_field(
    changes: dict[str, int], offset: int, message: str
) -> None:
    with pytest.raises(MalformedError, match=message) as caught:
        decode_machine_note(sealed({**HEAD, **changes}, PAYLOAD))

    assert caught.value.offset == offset


def test_machine_note_with_another_number_of_vcpu_states_is_refused() -> None:
    of_one = encode_machine_note(notes(vcpus=1))
    size = MACHINE_NOTE.unpack(of_one)["machine_bytes"]
    machine = of_one[MACHINE_NOTE.size :][:size]
    state = PAYLOAD[HEAD["machine_bytes"] :]

    with pytest.raises(MalformedError, match="a state of 0x2 vCPUs for a machine of 0x1"):
        decode_machine_note(sealed({**HEAD, "vcpu": 0, "machine_bytes": size}, machine + state))


def test_machine_note_with_a_gic_in_one_of_machine_and_state_is_refused() -> None:
    without = encode_machine_note(WITHOUT_GIC)
    size = MACHINE_NOTE.unpack(without)["machine_bytes"]
    parts = {"machine_bytes": size, "state_bytes": HEAD["state_bytes"]}
    payload = without[MACHINE_NOTE.size :][:size] + PAYLOAD[HEAD["machine_bytes"] :]

    with pytest.raises(MalformedError, match="one of the machine and its state has a GIC"):
        decode_machine_note(sealed({**HEAD, **parts}, payload))
    with pytest.raises(UsageError, match="one of the machine and its state has a GIC"):
        encode_machine_note(replace(NOTES, state=WITHOUT_GIC.state))


def test_encode_register_that_does_not_fit_is_refused() -> None:
    vcpu = NOTES.state.vcpus[0]
    wide = replace(vcpu, registers={RegisterId(0x6030_0000_0010_0000): 1 << 64})

    with pytest.raises(
        UsageError, match="cannot be written to a core: register 0x6030000000100000"
    ):
        encode_machine_note(replace(NOTES, state=MachineState((wide, vcpu), gic=NOTES.state.gic)))
