"""Translation by tables of every granule, held against the reader of guests' tables (paging)."""

import random
from collections.abc import Iterator, Mapping

import pytest

from tagalong.errors import StateError
from tagalong.machine import RegisterId, register_ids
from tagalong.memory import Gpa
from tagalong.mte.registers import TagCheckMode
from tagalong.paging import Half, Regime, translate
from tagalong.soft import RAM_GPA, SoftMachine
from tests.support import a64, bare

AT_S1E1R = (1, 0, 7, 8, 0)
TLBI_VAE1 = (1, 0, 8, 7, 1)
PAR_EL1 = (3, 0, 7, 4, 0)
TG1 = {12: 2, 14: 1, 16: 3}
GRANULES = tuple(TG1)
RAM_BYTES = 16 << 20
TABLES = RAM_GPA + (8 << 20)
FRAMES = RAM_GPA + (4 << 20)

PAR_FAULT = 1
PAGE, TABLE, BLOCK = 3, 3, 1
AF = 1 << 10
PAGE_4K = 4096

# Of the kernel's half, whose tables are under test; the program is in the other one.
PROBE = (a64.sys(AT_S1E1R, 1), a64.mrs(2, PAR_EL1))
LOAD = (a64.ldr(2, 1), a64.hint(0))
INVALIDATE = (a64.sys(TLBI_VAE1, 3), a64.hint(0))


class Guest:
    """A vCPU that probes addresses of the kernel's half, and that half's tables."""

    def __init__(self, machine: SoftMachine, granule_bits: int, input_bits: int) -> None:
        self.machine = machine
        self.registers: dict[RegisterId, int] = {}
        bare.enable(machine, 0, TagCheckMode.NONE)
        tcr = bare.TCR & ~(0x3F << 16 | 1 << 23)
        tcr |= (64 - input_bits) << 16 | TG1[granule_bits] << 30
        self._set(register_ids.TCR_EL1, tcr)
        self._set(register_ids.TTBR1_EL1, TABLES)
        self.registers |= machine.vcpus[0].save().registers
        self.regime = Regime.of(self.registers, Half.KERNEL)
        self._next_table = TABLES + (1 << granule_bits)

    def _set(self, register: RegisterId, value: int) -> None:
        self.machine.vcpus[0].set_register(register, value)

    def put(self, gpa: int, value: int) -> None:
        self.machine.memory.write(Gpa(gpa), value.to_bytes(8, "little"))

    def get(self, gpa: int) -> int:
        return int.from_bytes(self.machine.memory.read(Gpa(gpa), 8), "little")

    def map(self, address: int, level: int, descriptor: int) -> None:
        """Put a descriptor of `level` for `address` into the tables, as an OS does."""
        table = int(self.regime.table)
        for above in range(self.regime.first_level, level):
            entry = table + self._index(address, above) * 8
            if not self.get(entry) & 1:
                self.put(entry, self._next_table | TABLE)
                self._next_table += self.regime.granule_bytes
            table = self.get(entry) & ~(self.regime.granule_bytes - 1)
        self.put(table + self._index(address, level) * 8, descriptor)

    def _index(self, address: int, level: int) -> int:
        offset = address - self.regime.lowest_address
        return offset >> self.regime.shift(level) & self.regime.entries(level) - 1

    def run(self, words: tuple[int, int], x: Mapping[int, int]) -> int:
        """Execute two instructions; return x2."""
        self.machine.memory.write(Gpa(bare.CODE), bare.encoded(words))
        self._set(register_ids.PC, bare.CODE)
        bare.set_x(self.machine, dict(x))
        self.machine.vcpus[0].step(2)
        assert bare.get(self.machine, register_ids.PC) == bare.CODE + 8
        return bare.get_x(self.machine, 2)

    def translation_of(self, address: int) -> int | None:
        """Return what AT says, None for a fault."""
        par = self.run(PROBE, {1: address})
        return None if par & PAR_FAULT else par & 0x000F_FFFF_FFFF_F000

    def expected(self, address: int) -> int | None:
        regions = self.machine.description.regions
        mapping = translate(self.machine.memory.read, regions, self.regime, address)
        if mapping is None:
            return None
        return (mapping.gpa + address - mapping.address) & ~(PAGE_4K - 1)


@pytest.fixture
def machine() -> Iterator[SoftMachine]:
    made = SoftMachine.create(ram_bytes=RAM_BYTES)
    bare.prepare(made, ())
    yield made
    made.close()


@pytest.mark.parametrize("input_bits", [25, 26, 33, 36, 37, 39, 42, 47, 48])
@pytest.mark.parametrize("granule_bits", GRANULES)
def test_addresses_translate_as_the_reader_of_tables_has_them(
    machine: SoftMachine, granule_bits: int, input_bits: int
) -> None:
    guest, draw = Guest(machine, granule_bits, input_bits), random.Random(granule_bits * input_bits)
    low, size = guest.regime.lowest_address, 1 << granule_bits
    addresses = [low, (1 << 64) - 8, low + size, low + size - PAGE_4K]
    for _ in range(12):
        address = low + draw.randrange(1 << input_bits) & ~(size - 1)
        frame = FRAMES + draw.randrange((4 << 20) // size) * size
        guest.map(address, 3, frame | PAGE | AF)
        addresses += [address + draw.randrange(size) & ~7, address - 8, address + size]
    inside = [address for address in addresses if low <= address < 1 << 64]

    found = [guest.translation_of(address) for address in inside]

    assert found == [guest.expected(address) for address in inside]
    assert len(set(found)) > 6


@pytest.mark.parametrize(
    ("granule_bits", "level"),
    [(12, 0), (12, 1), (12, 2), (14, 0), (14, 1), (14, 2), (16, 1), (16, 2)],
)
def test_blocks_are_valid_at_the_levels_that_have_them(
    machine: SoftMachine, granule_bits: int, level: int
) -> None:
    guest = Guest(machine, granule_bits, 48)
    base = guest.regime.lowest_address
    guest.map(base, level, RAM_GPA & ~((1 << guest.regime.shift(level)) - 1) | BLOCK | AF)
    address = base + (RAM_GPA & (1 << guest.regime.shift(level)) - 1) + 0x12340

    found = guest.translation_of(address)

    expected = RAM_GPA + 0x12000 if guest.regime.has_blocks(level) else None
    assert found == expected == guest.expected(address)


@pytest.mark.parametrize("granule_bits", GRANULES)
def test_tlbi_by_address_forgets_the_whole_page(machine: SoftMachine, granule_bits: int) -> None:
    guest, size = Guest(machine, granule_bits, 39), 1 << granule_bits
    page, old, new = guest.regime.lowest_address + 4 * size, FRAMES, FRAMES + size
    places = (0, size // 2, size - PAGE_4K)
    for offset in places:
        guest.put(old + offset, 1)
        guest.put(new + offset, 2)
    guest.map(page, 3, old | PAGE | AF)
    before = [guest.run(LOAD, {1: page + offset}) for offset in places]

    guest.map(page, 3, new | PAGE | AF)
    guest.run(INVALIDATE, {3: page >> 12 & (1 << 44) - 1})

    assert before == [1, 1, 1]
    assert [guest.run(LOAD, {1: page + offset}) for offset in places] == [2, 2, 2]


def test_state_of_an_earlier_version_keeps_the_one_granule_that_it_says(
    machine: SoftMachine,
) -> None:
    register, of_4k_alone = register_ids.ID_AA64MMFR0_EL1, 0x0F00_0025
    vcpu = machine.vcpus[0]
    state = vcpu.save()

    vcpu.load(type(state)({**state.registers, register: of_4k_alone}, state.power))

    assert vcpu.get_register(register) == of_4k_alone
    with pytest.raises(StateError, match="ID_AA64MMFR0_EL1 is 0xff100025 there"):
        vcpu.load(type(state)({**state.registers, register: 0xFF10_0025}, state.power))
