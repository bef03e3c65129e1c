"""Results, faults and tags of single instructions: the same numbers on every machine."""

import numpy as np
import pytest

from tagalong.machine import register_ids
from tagalong.memory import Gpa
from tagalong.mte.registers import TagCheckMode
from tests.support import a64
from tests.support.bare import DATA, tagged
from tests.support.bare_program import BareProgram, Maker

PAGE = 4096
TFSR_EL1 = (3, 0, 5, 6, 0)
UART = 0x0900_0000
NOWHERE = 0x0A00_0000


def tags_of(program: BareProgram, gpa: int, pages: int = 1) -> bytes:
    return program.machine.read_tags(Gpa(gpa), pages * PAGE).tobytes()


def test_tag_store_is_read_from_outside_low_nibble_first(bare: Maker) -> None:
    words = [a64.stg(1, 1), a64.stg(2, 2, 16), a64.ldg(10, 4)]

    program = bare(words, {1: tagged(DATA, 5), 2: tagged(DATA, 9), 10: 0, 4: DATA + 16}).run()

    assert program.has_ended
    assert program.x(10) == tagged(0, 9)
    assert tags_of(program, DATA) == bytes([0x95]) + bytes(127)


def test_tags_written_from_outside_are_what_the_guest_loads(bare: Maker) -> None:
    program = bare([a64.ldg(10, 2), a64.ldg(11, 4), a64.ldr(5, 6)], {
        10: 0, 2: DATA, 11: 0, 4: DATA + 0x1FF0, 6: tagged(DATA, 0xC)})  # fmt: skip
    packed = np.zeros(2 * PAGE // 32, np.uint8)
    packed[0], packed[-1] = 0x7C, 0xE3

    program.machine.write_tags(Gpa(DATA), packed)
    program.run()

    assert program.has_ended
    assert (program.x(10), program.x(11)) == (tagged(0, 0xC), tagged(0, 0xE))


@pytest.mark.parametrize(
    ("access", "esr"),
    [(a64.ldr(1, 2), 0x9600_0011), (a64.str_(1, 2), 0x9600_0051)],
    ids=["load", "store"],
)
def test_wrong_tag_sync_gives_esr_and_far(bare: Maker, access: int, esr: int) -> None:
    pointer = tagged(DATA, 3)

    program = bare([access], {1: 0xABCD, 2: pointer}).run()

    assert not program.has_ended
    assert (program.esr, program.far) == (esr, pointer)
    assert program.machine.memory.read(Gpa(DATA), 8) == bytes(8)


def test_wrong_tag_async_accumulates_in_tfsr(bare: Maker) -> None:
    words = [a64.msr(TFSR_EL1, 31), a64.str_(1, 2), a64.barrier(4), a64.barrier(6),
             a64.mrs(10, TFSR_EL1)]  # fmt: skip

    program = bare(words, {1: 0xABCD, 2: tagged(DATA, 3)}, mode=TagCheckMode.ASYNC).run()

    assert program.has_ended
    assert program.x(10) == 1
    assert program.machine.vcpus[0].get_register(register_ids.TFSR_EL1) == 1
    assert program.machine.memory.read(Gpa(DATA), 2) == b"\xcd\xab"


def test_wrong_tag_with_tco_set_passes(bare: Maker) -> None:
    program = bare([a64.msr_tco(1), a64.str_(1, 2)], {1: 7, 2: tagged(DATA, 3)}).run()

    assert program.has_ended


def test_device_access_reaches_the_uart(bare: Maker) -> None:
    words = [a64.str_(1, 2), a64.ldr(10, 2, 0x18), a64.str_(4, 2)]

    program = bare(words, {1: ord("h"), 2: UART, 10: 0, 4: ord("i")}).run()

    assert program.has_ended
    assert bytes(program.output) == b"hi"
    assert program.x(10) & 0xFF == 0x90


@pytest.mark.parametrize(("access", "esr"), [(a64.ldr(1, 2), 0x9600_0010)], ids=["load"])
def test_access_to_where_nothing_is_aborts(bare: Maker, access: int, esr: int) -> None:
    program = bare([access], {1: 0, 2: NOWHERE}).run()

    assert not program.has_ended
    # KVM of Linux 6.1 extends the sign of the ESR that it makes up.
    assert (program.esr & 0xFFFF_FFFF, program.far) == (esr, NOWHERE)
