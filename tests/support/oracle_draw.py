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
        )


def tag_of(tags: bytes, address: int) -> int:
    """Return the allocation tag that an address has at the start of a program."""
    if DATA <= address < READONLY:
        return tags[(address - DATA) // GRANULE_BYTES]
    if READONLY <= address < HOLE:
        return READONLY_TAGS[(address - READONLY) // GRANULE_BYTES]
    return 0
