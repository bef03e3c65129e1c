"""Random choices that a generated program is made of: registers, values, pointers, tags."""

import random
from collections.abc import Sequence
from typing import TypeVar

from tagalong.mte import GRANULE_BYTES
from tests.support import a64
from tests.support.oracle_layout import (
    DATA,
    DATA_BYTES,
    DATA_GRANULES,
    HOLE,
    PAGE_BYTES,
    PLAIN,
    READONLY,
    READONLY_TAGS,
)
from tests.support.oracle_program import NZCV_MASK, TCO_BIT, State, TagCheckFaults

T = TypeVar("T")

TAG_SHIFT = 56
DATA_REGISTERS = (*range(16), 29, 30)
SCRATCH = 16  # set right before use, by the forms that need an address of a certain kind
LOOP_COUNTER = 17
POINTER_REGISTERS = tuple(range(18, 29))

_EDGES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF,
          1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, (1 << 64) - 2)  # fmt: skip


class Draw(random.Random):
    """Random with the field's vocabulary. `pc` is where the next instruction will stand."""

    pc = 0
    privileged = False

    def chance(self, percent: float) -> bool:
        return self.random() * 100 < percent

    def pick(self, items: Sequence[T]) -> T:
        return items[int(self.random() * len(items))]

    def bits(self, width: int) -> int:
        return self.getrandbits(width)

    def signed(self, width: int) -> int:
        return self.getrandbits(width) - (1 << (width - 1))

    def source(self) -> int:
        """Return any register as operand, 31 included."""
        return self.bits(5) if self.chance(50) else self.pick(DATA_REGISTERS)

    def target(self) -> int:
        """Return a register to overwrite; a pointer only rarely, as accesses need them."""
        if self.chance(2):
            return self.bits(5)
        return a64.ZR if self.chance(4) else self.pick(DATA_REGISTERS)

    def target_sp(self) -> int:
        """Return a register to overwrite where 31 means SP."""
        return a64.SP if self.chance(1) else self.pick(DATA_REGISTERS)

    def base(self) -> int:
        """Return the base register of an access."""
        if self.chance(4):
            return self.bits(5)
        return a64.SP if self.chance(10) else self.pick(POINTER_REGISTERS)

    def value(self) -> int:
        kind = self.bits(2)
        if kind == 0:
            return self.pick(_EDGES)
        if kind == 1:
            return self.bits(self.pick((4, 8, 16, 31)))
        return self.bits(64)

    def address(self) -> int:
        """Return an untagged address, mostly in DATA, sometimes at or over an edge."""
        percent = self.random() * 100
        if percent < 78:
            return DATA + self.randrange(DATA_BYTES)
        if percent < 86:
            return READONLY + self.randrange(PAGE_BYTES)
        if percent < 93:
            return PLAIN + self.randrange(PAGE_BYTES)
        if percent < 97:
            edge = self.pick((DATA, DATA + PAGE_BYTES, READONLY, HOLE, PLAIN, PLAIN + PAGE_BYTES))
            return edge + self.signed(6)
        return HOLE + self.randrange(PAGE_BYTES)

    def pointer(self, tags: bytes) -> int:
        """Return a pointer, mostly aligned and with the tag of its granule."""
        address = self.address()
        if self.chance(80):
            address &= ~(GRANULE_BYTES - 1)
        tag = tag_of(tags, address) if self.chance(85) else self.bits(4)
        top = self.bits(4) if self.chance(20) else 0
        return address | tag << TAG_SHIFT | top << (TAG_SHIFT + 4)

    def tags(self) -> bytes:
        """Return the tags of DATA: mostly one tag, or runs, or noise."""
        kind = self.bits(2)
        if kind == 0:
            return bytes(self.bits(4) for _ in range(DATA_GRANULES))
        if kind == 1:
            main = self.bits(4)
            return bytes(self.bits(4) if self.chance(5) else main for _ in range(DATA_GRANULES))
        tags = b""
        while len(tags) < DATA_GRANULES:
            tags += bytes([self.bits(4)]) * self.randint(1, 64)
        return tags[:DATA_GRANULES]

    def state(self) -> State:
        """Return what a program starts from."""
        tags = self.tags()
        registers = [self.value() for _ in range(31)]
        for number in POINTER_REGISTERS:
            registers[number] = self.pointer(tags)
        mode = self.random() * 100
        faults = TagCheckFaults.SYNC
        if mode < 16:
            faults = TagCheckFaults.ASYNC if mode < 10 else TagCheckFaults.NONE
        return State(
            registers=tuple(registers),
            sp=self.pointer(tags),
            pstate=self.bits(32) & NZCV_MASK | (TCO_BIT if self.chance(10) else 0),
            tags=tags,
            faults=faults,
            exclude=self.pick((0, 0, 1, 0xFFFF, self.bits(16), 0xFFFF ^ 1 << self.bits(4))),
            vectors=self.vectors(),
            fpcr=self.fpcr(),
        )

    # --- floating point ---

    def vectors(self) -> bytes:
        """Return what V0 to V31 start with."""
        return b"".join(self.lanes().to_bytes(8, "little") for _ in range(64))

    def fpcr(self) -> int:
        """Return a rounding mode and, less often than not, AHP, DN, FZ and FZ16."""
        modes = sum(1 << bit for bit in (26, 25, 24, 19) if self.chance(25))
        return modes | self.bits(2) << 22

    def lanes(self) -> int:
        """Return 64 bits: one, two or four numbers of a format, special or not, or random bits."""
        if self.chance(10):
            return self.bits(64)
        bits, fraction_bits = self.pick(((16, 10), (32, 23), (64, 52), (64, 52)))
        draw = self.ordinary_number if self.chance(35) else self.number
        lanes = [draw(bits, fraction_bits) for _ in range(64 // bits)]
        return sum(lane << bits * index for index, lane in enumerate(lanes))

    def number(self, bits: int, fraction_bits: int) -> int:
        """Return a number of a format of `bits`, mostly one at which the rules change."""
        exponent_bits = bits - 1 - fraction_bits
        largest, bias = (1 << exponent_bits) - 1, (1 << (exponent_bits - 1)) - 1
        exponents: tuple[int, ...] = (
            0, 0, 1, 2, fraction_bits, bias // 2, largest - 1, largest - 2, largest, largest,
            *range(bias - 2, bias + 3), *self.integer_exponents(bias, largest),
            self.bits(exponent_bits), self.bits(exponent_bits),
        )  # fmt: skip
        exponent = self.pick(exponents)
        sign = self.bits(1) << (bits - 1)
        return sign | exponent << fraction_bits | self.fraction(fraction_bits)

    def ordinary_number(self, bits: int, fraction_bits: int) -> int:
        """Return a number not far from one, with a few digits or with many."""
        exponent = (1 << (bits - 2 - fraction_bits)) - 1 + self.signed(4)
        sign = self.bits(1) << (bits - 1)
        return sign | exponent << fraction_bits | self.fraction(fraction_bits)

    def integer_exponents(self, bias: int, largest: int) -> tuple[int, ...]:
        """Return exponents around the limits of integers, as far as the format has them."""
        return tuple(bias + width for width in (10, 15, 16, 23, 31, 32, 52, 63, 64)
                     if bias + width < largest)  # fmt: skip

    def fraction(self, width: int) -> int:
        """Return a fraction: none, all ones, a few bits at one end, a halfway case, or any."""
        ones = (1 << width) - 1
        some = self.bits(3)
        kinds = (
            0, ones, some, some << (width - 3), (some << self.randrange(width)) & ones,
            ones ^ 1 << self.randrange(width), self.bits(width), self.bits(width),
        )  # fmt: skip
        return self.pick(kinds)

    def integer(self) -> int:
        """Return 64 bits that convert to numbers near where their rounding changes."""
        if self.chance(30):
            return self.value()
        value = self.bits(4) << self.randrange(61)
        return ((value + self.signed(2)) * self.pick((1, -1))) & ((1 << 64) - 1)


def tag_of(tags: bytes, address: int) -> int:
    """Return the allocation tag that an address has at the start of a program."""
    if DATA <= address < READONLY:
        return tags[(address - DATA) // GRANULE_BYTES]
    if READONLY <= address < HOLE:
        return READONLY_TAGS[(address - READONLY) // GRANULE_BYTES]
    return 0
