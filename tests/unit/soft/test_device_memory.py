"""Accesses outside RAM: to devices, to nothing, and of allocation tags where there are none.

Source: DDI 0487, AArch64.MemTag (aarch64/functions/memory) for tags, B2.2.1 for pairs, D8 for
walks. The same instructions in QEMU 10's system mode gave the same ESR and FAR, but for DC GVA and
DC ZVA on Device memory, where QEMU takes no alignment fault.
"""

from collections.abc import Iterator, Sequence

import pytest

from tagalong._native import InterpreterExit
from tagalong.machine import RegisterId, register_ids
from tagalong.memory import Region
from tagalong.mte.registers import TagCheckMode
from tagalong.soft import RAM_GPA
from tagalong.soft.native import NativeMachine, StopReason
from tests.support import a64, bare, simd_words

DEVICE, NORMAL, TAGGED = 1, 2, 0  # indices of bare.MAIR
UART, NOTHING = 0x0900_0000, 0x0A00_0000
DC_ZVA, DC_GVA, DC_GZVA = (1, 3, 7, 4, 1), (1, 3, 7, 4, 3), (1, 3, 7, 4, 4)
DC_IVAC, DC_CVAC, DC_CIGDVAC = (1, 0, 7, 6, 1), (1, 3, 7, 10, 1), (1, 3, 7, 14, 5)
AT_S1E1R = (1, 0, 7, 8, 0)
ABORT_READ, ABORT_WRITE = 0x9600_0010, 0x9600_0050
ALIGNMENT_WRITE = 0x9600_0061
ATOMIC = 0x9600_0035
OLD = 0x0500_0000_0000_1234  # what the target register has before LDG

VECTOR = 0x1F1E_1D1C_1B1A_1918_1716_1514_1312_1110
HALVES = 0x1716_1514_1312_1110, 0x1F1E_1D1C_1B1A_1918

Access = tuple[bool, int, int, int]  # is a write, gpa, bytes, data


class Guest:
    """One vCPU before one instruction, with x1 the address; the first GiB is no RAM."""

    def __init__(self) -> None:
        self.native = NativeMachine(1, 0)
        self.region = Region.create(RAM_GPA, 0x10_0000)
        self.native.add_ram(self.region)
        self.native.add_mmio(UART, 0x1000)
        self.accesses: list[Access] = []

    def close(self) -> None:
        self.native.close()
        self.region.close()

    def write(self, gpa: int, value: int) -> None:
        self.region.raw_data[gpa - RAM_GPA :][:8] = memoryview(value.to_bytes(8, "little"))

    def prepare(self, word: int, attribute: int, address: int) -> None:
        self.accesses.clear()
        self.write(bare.TABLES, attribute << 2 | 1 << 10 | 1)
        self.write(bare.TABLES + 8, RAM_GPA | 1 << 10 | 3 << 8 | TAGGED << 2 | 1)
        self.write(bare.CODE, word)
        for register, value in (
            (register_ids.MAIR_EL1, bare.MAIR),
            (register_ids.TCR_EL1, bare.TCR),
            (register_ids.TTBR0_EL1, bare.TABLES),
            (register_ids.VBAR_EL1, bare.VECTORS),
            (register_ids.SCTLR_EL1, bare.sctlr(TagCheckMode.SYNC)),
            (register_ids.PSTATE, 0x3C5),
            (register_ids.PC, bare.CODE),
            (register_ids.ESR_EL1, 0),
            (register_ids.FAR_EL1, 0),
            (register_ids.CPACR_EL1, 3 << 20),
            *((register_ids.v(number), VECTOR + number) for number in range(4)),
            (register_ids.x(0), OLD),
            (register_ids.x(1), address),
            (register_ids.x(2), 0x2222),
            (register_ids.x(3), 0x3333),
        ):
            assert self.native.set_register(0, register, value)

    def run(self, reads: Sequence[int] = (), *, abort_last: bool = False) -> None:
        """Execute the instruction; answer its accesses with `reads`, then with an abort."""
        leave: InterpreterExit | None = InterpreterExit()
        assert leave is not None
        self.native.step(0, 1, leave)
        if leave.reason != StopReason.MMIO:
            return
        answers = list(reads)
        while leave is not None:
            self.accesses.append(
                (bool(leave.mmio_is_write), leave.mmio_gpa, leave.mmio_size, leave.mmio_data)
            )
            if abort_last and not answers:
                self.native.abort_mmio(0)
                return
            leave = self.native.complete_mmio(0, answers.pop(0) if answers else 0)

    def get(self, register: RegisterId) -> int:
        value = self.native.get_register(0, register)
        assert value is not None
        return value

    def x(self, number: int) -> int:
        return self.get(register_ids.x(number))

    @property
    def esr(self) -> int:
        return self.get(register_ids.ESR_EL1)

    @property
    def far(self) -> int:
        return self.get(register_ids.FAR_EL1)

    @property
    def has_passed(self) -> bool:
        return self.get(register_ids.PC) == bare.CODE + 4


@pytest.fixture
def guest() -> Iterator[Guest]:
    made = Guest()
    yield made
    made.close()


def zeros(gpa: int, count: int) -> list[Access]:
    return [(True, gpa + 8 * number, 8, 0) for number in range(count)]


def test_tags_of_memory_that_is_not_tagged_are_zero_and_stores_of_them_nothing(
    guest: Guest,
) -> None:
    instructions = {
        "ldg": a64.ldg(0, 1),
        "ldgm": a64.ldgm(0, 1),
        "stg": a64.stg(1, 1),
        "st2g": a64.tag_store(a64.ST2G, a64.OFFSET, 1, 1),
        "stgm": a64.stgm(0, 1),
        "dc gva": a64.sys(DC_GVA, 1),
    }
    cases = [
        (name, word, attribute, address)
        for name, word in instructions.items()
        for attribute in (DEVICE, NORMAL)
        for address in (UART, NOTHING, UART + 0xFF0)
        if name != "dc gva" or attribute == NORMAL
    ]

    for name, word, attribute, address in cases:
        guest.prepare(word, attribute, address)
        guest.run()

        case = f"{name} at {address:#x}, attribute {attribute}: ESR {guest.esr:#x}"
        assert guest.has_passed, case
        assert not guest.accesses, case
        expected = {"ldg": OLD & ~(0xF << 56), "ldgm": 0}
        assert guest.x(0) == expected.get(name, OLD), case


def test_tags_of_tagged_memory_without_ram_are_an_external_abort(guest: Guest) -> None:
    for word, esr in (
        (a64.ldg(0, 1), ABORT_READ),
        (a64.ldgm(0, 1), ABORT_READ),
        (a64.stg(1, 1), ABORT_WRITE),
        (a64.stgm(0, 1), ABORT_WRITE),
        (a64.tag_store(a64.STZG, a64.OFFSET, 1, 1), ABORT_WRITE),
    ):
        for address in (UART, NOTHING):
            guest.prepare(word, TAGGED, address)
            guest.run()

            assert not guest.accesses, hex(word)
            assert (guest.esr, guest.far) == (esr, address), hex(word)


def test_stores_of_tags_and_data_to_a_device_write_the_data_in_pieces_of_8(guest: Guest) -> None:
    pair = [(True, UART + 32, 8, 0x2222), (True, UART + 40, 8, 0x3333)]
    for name, word, attribute, expected in (
        ("stzg", a64.tag_store(a64.STZG, a64.OFFSET, 1, 1, 32), DEVICE, zeros(UART + 32, 2)),
        ("stz2g", a64.tag_store(a64.STZ2G, a64.OFFSET, 1, 1, 32), DEVICE, zeros(UART + 32, 4)),
        ("stgp", a64.stgp(a64.PAIR_OFFSET, 2, 3, 1, 32), DEVICE, pair),
        ("stzgm", a64.stzgm(0, 1), NORMAL, zeros(UART, 64)),
        ("dc zva", a64.sys(DC_ZVA, 1), NORMAL, zeros(UART, 64)),
        ("dc gzva", a64.sys(DC_GZVA, 1), NORMAL, zeros(UART, 64)),
    ):
        guest.prepare(word, attribute, UART)
        guest.run()

        assert guest.accesses == expected, name
        assert guest.has_passed, f"{name}: ESR {guest.esr:#x}"
        assert guest.far == 0, name


def test_stores_of_tags_and_data_to_nothing_are_an_external_abort(guest: Guest) -> None:
    for word, attribute, esr in (
        (a64.tag_store(a64.STZG, a64.OFFSET, 1, 1), DEVICE, ABORT_WRITE),
        (a64.stgp(a64.PAIR_OFFSET, 2, 3, 1), DEVICE, ABORT_WRITE),
        (a64.stzgm(0, 1), NORMAL, ABORT_WRITE),
        (a64.sys(DC_ZVA, 1), NORMAL, ABORT_WRITE),
        (a64.sys(DC_GZVA, 1), NORMAL, ABORT_WRITE),
        (a64.sys(DC_ZVA, 1), DEVICE, ALIGNMENT_WRITE),
        (a64.sys(DC_GZVA, 1), DEVICE, ALIGNMENT_WRITE),
        (a64.sys(DC_GVA, 1), DEVICE, ALIGNMENT_WRITE),
    ):
        guest.prepare(word, attribute, NOTHING)
        guest.run()

        assert (guest.esr, guest.far) == (esr, NOTHING), hex(word)


def test_stz2g_from_a_device_into_ram_does_to_each_what_it_can(guest: Guest) -> None:
    last = RAM_GPA - 16  # a granule of a device, right before RAM
    guest.native.add_mmio(RAM_GPA - 0x1000, 0x1000)
    guest.prepare(a64.tag_store(a64.STZ2G, a64.OFFSET, 1, 1), DEVICE, last | 9 << 56)
    guest.write(RAM_GPA, 0x77)
    guest.run()

    assert guest.has_passed, hex(guest.esr)
    assert guest.accesses == zeros(last, 2)
    assert int(guest.region.tags[0]) == 9
    assert not guest.region.data[:16].any()


def test_pairs_to_a_device_are_one_access_for_each_element(guest: Guest) -> None:
    reads = [0x1111_1111_2222_2222, 0x3333_3333_4444_4444]
    for name, word, accesses, registers in (
        (
            "ldp x",
            a64.pair(a64.LDP_X, a64.PAIR_OFFSET, 2, 3, 1, 16),
            [(False, UART + 16, 8, 0), (False, UART + 24, 8, 0)],
            reads,
        ),
        (
            "ldp w",
            a64.pair(a64.LDP_W, a64.PAIR_OFFSET, 2, 3, 1, 16),
            [(False, UART + 16, 4, 0), (False, UART + 20, 4, 0)],
            [0x2222_2222, 0x4444_4444],
        ),
        (
            "stp x",
            a64.pair(a64.STP_X, a64.PAIR_OFFSET, 2, 3, 1),
            [(True, UART, 8, 0x2222), (True, UART + 8, 8, 0x3333)],
            [0x2222, 0x3333],
        ),
    ):
        guest.prepare(word, DEVICE, UART)
        guest.run(reads)

        assert guest.accesses == accesses, name
        assert [guest.x(2), guest.x(3)] == registers, name
        assert guest.has_passed, name


def test_pair_whose_second_access_a_device_rejects_changes_no_register(guest: Guest) -> None:
    guest.prepare(a64.pair(a64.LDP_X, a64.PAIR_PRE, 2, 3, 1, 16), DEVICE, UART)
    guest.run([5], abort_last=True)

    assert len(guest.accesses) == 2
    assert (guest.esr, guest.far) == (ABORT_READ, UART + 24)
    assert [guest.x(number) for number in (1, 2, 3)] == [UART, 0x2222, 0x3333]


def test_pair_with_write_back_updates_the_base_once(guest: Guest) -> None:
    guest.prepare(a64.pair(a64.STP_X, a64.PAIR_POST, 2, 3, 1, 16), DEVICE, UART)
    guest.run()

    assert guest.x(1) == UART + 16


def test_atomics_and_exclusives_outside_ram_are_unsupported_or_reach_nothing(
    guest: Guest,
) -> None:
    for word in (
        a64.ldxr(3, 2, 1),
        a64.ldxp(3, 2, 4, 1),
        a64.cas(3, 2, 3, 1),
        a64.atomic(3, a64.LDADD, 2, 3, 1),
    ):
        for address, esr in ((UART, ATOMIC), (NOTHING, ABORT_READ)):
            guest.prepare(word, DEVICE, address)
            guest.run()

            assert (guest.esr, guest.far) == (esr, address), f"{word:#x} at {address:#x}"


def test_vector_registers_reach_a_device_element_by_element_and_in_pieces_of_8(
    guest: Guest,
) -> None:
    low, high = HALVES
    for name, word, reads, expected in (
        ("str q", simd_words.STR_Q, 0, [(True, UART, 8, low), (True, UART + 8, 8, high)]),
        ("ldr q", simd_words.LDR_Q, 2, [(False, UART + 8 * i, 8, 0) for i in range(2)]),
        ("ldr s", simd_words.LDR_S, 1, [(False, UART, 4, 0)]),
        ("ldp q", simd_words.LDP_Q_PRE, 4, [(False, UART + 32 + 8 * i, 8, 0) for i in range(4)]),
        ("ld4 bytes", simd_words.LD4_16B, 64, [(False, UART + i, 1, 0) for i in range(64)]),
    ):
        guest.prepare(word, DEVICE, UART)
        guest.run([0x40 + index for index in range(reads)])

        assert guest.accesses == expected, name
        assert guest.has_passed, f"{name}: ESR {guest.esr:#x}"
    assert guest.get(register_ids.v(1)) == sum((0x41 + 4 * i) << 8 * i for i in range(16))


def test_abort_in_the_middle_of_vector_registers_changes_none_of_them(guest: Guest) -> None:
    for word in (simd_words.LDP_Q_PRE, simd_words.LD4_4S):
        guest.prepare(word, DEVICE, UART)
        guest.run([1, 2], abort_last=True)

        offset = 32 + 16 if word == simd_words.LDP_Q_PRE else 8
        assert (guest.esr, guest.far) == (ABORT_READ, UART + offset), hex(word)
        assert [guest.get(register_ids.v(n)) for n in range(4)] == [VECTOR + n for n in range(4)]
        assert guest.x(1) == UART


def test_vector_registers_at_a_device_must_be_aligned(guest: Guest) -> None:
    for word, address in ((simd_words.STR_Q, UART + 8), (simd_words.LD4_4S, UART + 2)):
        guest.prepare(word, DEVICE, address)
        guest.run()

        assert (guest.esr & 0x3F, guest.far) == (0x21, address)
        assert not guest.accesses


def test_cache_maintenance_of_what_is_no_ram_is_no_access(guest: Guest) -> None:
    for operation in (DC_IVAC, DC_CVAC, DC_CIGDVAC):
        for address in (UART, NOTHING):
            guest.prepare(a64.sys(operation, 1), DEVICE, address)
            guest.run()

            assert guest.has_passed, f"{operation} at {address:#x}: ESR {guest.esr:#x}"
            assert not guest.accesses


def test_walk_and_fetch_outside_ram_are_external_aborts(guest: Guest) -> None:
    far_away = 0x8000_0000
    for name, word, esr in (
        ("load", a64.ldr(2, 1), 0x9600_0016),
        ("store", a64.str_(2, 1), 0x9600_0056),
        ("fetch", a64.br(1), 0x8600_0016),
        ("at", a64.sys(AT_S1E1R, 1), 0x9600_0156),
    ):
        guest.prepare(word, DEVICE, far_away)
        guest.write(bare.TABLES + 16, NOTHING | 3)  # a table that is not there
        guest.run()
        if name == "fetch":
            guest.run()

        assert (guest.esr, guest.far) == (esr, far_away), name
    guest.prepare(a64.br(1), NORMAL, NOTHING)
    guest.run()
    guest.run()
    assert (guest.esr, guest.far) == (0x8600_0010, NOTHING)
