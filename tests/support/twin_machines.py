"""Random programs on two machines: one runs threaded code, one the plain interpreter alone.

The programs are of what has an op of its own (native/cpu/threaded_*.c), with all that makes an op
give up: addresses that are unaligned, cross a page or a granule, carry another tag, are not mapped,
or lie in the program itself, which then changes. They run at EL1, with either stack pointer, or at
EL0, with and without ignored top bytes. An exception skips the instruction.

RAM is two regions that do not follow each other in the host, so that an access across their border
has to look at both.
"""

import random
from itertools import product

import numpy as np
from numpy.typing import NDArray

from tagalong._native import InterpreterExit
from tagalong.machine import RegisterId, register_ids
from tagalong.memory import PageBitmap, Region
from tagalong.mte.registers import TagCheckMode
from tagalong.soft import RAM_GPA
from tagalong.soft.native import NativeMachine, StopReason, state_register_ids
from tests.support import a64, bare

CODE_WORDS = 2048  # two pages, so that there are branches between pages, and a page's last word
CODE_END = bare.CODE + 4 * CODE_WORDS
UART = 0x0900_0000
RAM_BYTES = 0x20000
SECOND_REGION = bare.DATA + 4096
_FREE = 20  # x0 to x19 are for results; the others hold addresses, of data and of code
_SKIP = [
    a64.msr(a64.TPIDR_EL0, 0),
    a64.mrs(0, a64.ELR_EL1),
    a64.add_imm(0, 0, 4),
    a64.msr(a64.ELR_EL1, 0),
    a64.mrs(0, a64.TPIDR_EL0),
    a64.eret(),
]
_COUNTER = (3, 3, 14, 0, 2)
# RAM again, for EL1 alone: what EL0 may write, EL1 does not execute.
_HANDLERS_BASE = 0x8000_0000
_EL0 = 1 << 6  # AP[1] of a block
_EL1H, _EL1T, _EL0T = 0x3C5, 0x3C4, 0x3C0
_TBI0, _TBID0 = 1 << 37, 1 << 51
_FIXED = {
    register_ids.MAIR_EL1: bare.MAIR,
    register_ids.TTBR0_EL1: bare.TABLES,
    register_ids.VBAR_EL1: bare.VECTORS - RAM_GPA + _HANDLERS_BASE,
    register_ids.GCR_EL1: bare.GCR,
    register_ids.CPACR_EL1: 3 << 20,
}


class Twin:
    """One of the two: two vCPUs, of which one is off, 128 KiB of RAM, a device, a dirty log."""

    def __init__(self, *, plain: bool) -> None:
        self.native = NativeMachine(2, 0)
        first_bytes = SECOND_REGION - RAM_GPA
        self.regions = (
            Region.create(RAM_GPA, first_bytes),
            Region.create(SECOND_REGION, RAM_BYTES - first_bytes),
        )
        for region in self.regions:
            self.native.add_ram(region)
        self.native.add_mmio(UART, 0x1000)
        self._dirty = [PageBitmap(region.size_bytes // 4096) for region in self.regions]
        self.leave = InterpreterExit()
        if plain:
            self.native.run_plainly()

    def close(self) -> None:
        self.native.close()
        for region in self.regions:
            region.close()

    def put(self, gpa: int, content: bytes) -> None:
        for region in self.regions:
            _put_part(region.raw_data, region.gpa, gpa, content)

    def begin(
        self, program: bytes, data: bytes, tags: bytes, registers: dict[RegisterId, int]
    ) -> None:
        """Put a program in place, with nothing in the dirty log."""
        for vector in range(bare.VECTORS, bare.VECTORS + 0x800, 0x80):
            self.put(vector, bare.encoded(_SKIP))
        device, ram = bare.BLOCKS
        is_el0 = registers[register_ids.PSTATE] & 0xF == _EL0T & 0xF
        for index, entry in enumerate((device, ram | _EL0 if is_el0 else ram, ram)):
            self.put(bare.TABLES + 8 * index, entry.to_bytes(8, "little"))
        self.put(bare.CODE, program)
        self.put(bare.DATA, data)
        for region in self.regions:
            _put_part(region.raw_tags, region.gpa // 32, bare.DATA // 32, tags)
        for vcpu, (register, value) in product(range(2), registers.items()):
            assert self.native.set_register(vcpu, register, value)
        self.forget_dirty_pages()

    def forget_dirty_pages(self) -> None:
        for number, dirty in enumerate(self._dirty):
            dirty.words.fill(0)
            self.native.set_dirty_log(number, dirty)

    def run(self, budget: int) -> None:
        """Execute at most `budget` instructions; each read of the device answers the same."""
        self.native.run(budget, self.leave)
        pending: InterpreterExit | None = self.leave
        while pending is not None and pending.reason == StopReason.MMIO:
            pending = self.native.complete_mmio(0, 0x1122_3344_5566_7788)

    def step(self, vcpu: int, count: int, pc: int | None = None) -> None:
        """Let one of the vCPUs, on or off, execute `count` instructions, from `pc` on if it says.

        To set a register takes an exclusive reservation away, as a context switch does.
        """
        self.native.set_power(vcpu, on=True)
        if pc is not None:
            self.native.set_register(vcpu, register_ids.PC, pc)
        self.native.step(vcpu, count, self.leave)

    def outcome(self) -> dict[str, object]:
        """Return all that the program has changed, by name."""
        found: dict[str, object] = {
            hex(register): self.native.get_register(0, register)
            for register in state_register_ids()
        }
        found["reason"] = self.leave.reason
        found["instructions"] = self.native.instructions(0)
        found["counter"] = self.native.counter()
        found["dirty"] = [dirty.words.tobytes() for dirty in self._dirty]
        found["data"] = [region.raw_data.tobytes() for region in self.regions]
        found["tags"] = [region.raw_tags.tobytes() for region in self.regions]
        return found


def _put_part(plane: NDArray[np.uint8], start: int, at: int, content: bytes) -> None:
    """Store what of `content`, which begins at `at`, is in a plane that begins at `start`."""
    first = max(at, start)
    part = content[first - at : max(0, start + len(plane) - at)]
    plane[first - start :][: len(part)] = memoryview(part)


def random_program(rng: random.Random) -> bytes:
    return bare.encoded([_random_word(rng) for _ in range(CODE_WORDS)])


def random_place(rng: random.Random) -> int:
    """Return the address of one of the program's instructions."""
    return bare.CODE + 4 * rng.randrange(CODE_WORDS)


def random_registers(rng: random.Random) -> dict[RegisterId, int]:
    """Return where a program starts: its addresses, and numbers near the edges of their types."""
    edges = (0, 1, 31, 63, 1 << 31, (1 << 31) - 1, (1 << 32) - 1, 1 << 63, (1 << 63) - 1)
    values = [rng.choice((rng.choice(edges), rng.getrandbits(64))) for _ in range(_FREE)]
    data = bare.DATA + 256 * rng.randrange(16)
    values += [
        data | rng.getrandbits(4) << 56,
        data + rng.randrange(16),
        rng.choice((bare.DATA + 4096, RAM_GPA + RAM_BYTES)) - 8 * rng.randrange(1, 4),
        random_place(rng),
        rng.choice((UART, 1 << 40, data | 1 << 63)),
        rng.randrange(64) - 32 & (1 << 64) - 1,  # an index
    ]
    values += [random_place(rng) | rng.choice((0, 0, 0, 5)) << 56 for _ in range(31 - len(values))]
    mode = rng.choice((TagCheckMode.NONE, TagCheckMode.SYNC, TagCheckMode.ASYNC))
    at_el0 = mode.value << 38 | bare.SCTLR_ATA0
    level = rng.choice((_EL1H, _EL1H, _EL1T, _EL0T))
    return {
        **_FIXED,
        **{register_ids.x(number): value for number, value in enumerate(values)},
        register_ids.TCR_EL1: rng.choice((bare.TCR, bare.TCR, bare.TCR ^ _TBI0, bare.TCR | _TBID0)),
        register_ids.SCTLR_EL1: bare.sctlr(mode) | at_el0 | rng.getrandbits(2) << 3,  # SA, SA0
        register_ids.SP_EL0: data + 16 * 64 + rng.choice((0, 0, 0, 8)),
        register_ids.SP_EL1: data + 16 * 64 + rng.choice((0, 0, 0, 8)),
        register_ids.PSTATE: level | rng.getrandbits(4) << 28,
        register_ids.PC: random_place(rng),
    }


def _random_word(rng: random.Random) -> int:
    kinds = _immediate, _register, _single, _pair, _branch, _other
    (kind,) = rng.choices(kinds, (20, 25, 20, 8, 22, 5))
    return kind(rng)


def _immediate(rng: random.Random) -> int:
    """Return data processing with an immediate, in all its groups."""
    return rng.getrandbits(32) & ~(7 << 26 | 0x1F) | 4 << 26 | rng.randrange(_FREE)


def _register(rng: random.Random) -> int:
    """Return data processing of registers; a third of it with what is set in most encodings."""
    word = rng.getrandbits(32) & ~(7 << 25 | 0x1F) | 5 << 25 | rng.randrange(_FREE)
    if rng.random() < 0.3:
        return word & ~(1 << 28 | 1 << 21 | 0x3F << 10)  # logical and add/subtract, not shifted
    if rng.random() < 0.3:
        return word & ~(1 << 29 | 7 << 21 | 1 << 11) | 1 << 28 | 4 << 21  # CSEL and its kin
    return word


def _base(rng: random.Random) -> int:
    return rng.choice((20, 20, 20, 21, 22, 23, 24, a64.SP, a64.SP))


def _single(rng: random.Random) -> int:
    """Return a load or store of one register, in any form, of general-purpose ones mostly."""
    word = rng.getrandbits(32) & ~(0x3F << 24 | 0x3FF) | 7 << 27 | _base(rng) << 5
    if rng.random() < 0.5:
        word = word & ~(0xFFF << 10) | 1 << 24 | rng.randrange(64) << 10  # unsigned offset
    elif rng.random() < 0.4:
        index = rng.choice((25, 31))
        word = word & ~(0x1F << 16 | 3 << 10) | 1 << 21 | index << 16 | 2 << 10
    else:
        word &= ~(1 << 21)
    return word | rng.randrange(_FREE) | (rng.random() < 0.05) << 26


def _pair(rng: random.Random) -> int:
    word = rng.getrandbits(32) & ~(0x3F << 25 | 0x7FFF) | 5 << 27 | _base(rng) << 5
    word &= ~(0x3F << 16)  # a small offset, of either sign
    return (
        word
        | rng.randrange(_FREE)
        | rng.randrange(_FREE) << 10
        | rng.choice((0, rng.getrandbits(4))) << 15
    )


def _branch(rng: random.Random) -> int:
    distance = 4 * rng.choice((rng.randrange(-8, 40), rng.randrange(-1024, 1024)))
    register, sf, sense = rng.randrange(_FREE), rng.getrandbits(1), rng.getrandbits(1)
    return rng.choice((
        a64.b(distance),
        a64.bl(distance),
        a64.b_cond(rng.randrange(16), distance),
        a64.b_cond(rng.randrange(14), distance),
        a64.b_cond(rng.randrange(14), distance),
        a64.cbz(register, distance, nonzero=sense, sf=sf),
        a64.tbz(register, rng.randrange(64), distance, nonzero=sense),
        a64.br(rng.randrange(26, 31)),
        a64.blr(rng.randrange(26, 31)),
        a64.ret(),
    ))  # fmt: skip


def _other(rng: random.Random) -> int:
    """Return what is always left to a handler, between what is not."""
    register = rng.randrange(_FREE)
    return rng.choice((
        a64.mrs(register, _COUNTER),
        a64.mrs(register, a64.NZCV),
        a64.mrs(register, a64.SP_EL0),
        a64.msr(a64.NZCV, register),
        a64.msr_tco(rng.getrandbits(1)),
        a64.stg(20, 20, 16 * rng.randrange(8)),
        a64.ldg(register, 20, 16 * rng.randrange(8)),
        a64.hint(0),
        a64.svc(),
        rng.getrandbits(32) & ~(0xF << 25),  # unallocated
    ))  # fmt: skip
