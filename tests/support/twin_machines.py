"""Random programs on two machines: one runs threaded code, one the plain interpreter alone.

The programs are of what has an op of its own (native/cpu/threaded_*.c), with all that makes an op
give up: addresses that are unaligned, cross a page or a granule, carry another tag, are not mapped,
or lie in the program itself, which then changes. An exception skips the instruction.
"""

import random

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
_FIXED = {
    register_ids.MAIR_EL1: bare.MAIR,
    register_ids.TCR_EL1: bare.TCR,
    register_ids.TTBR0_EL1: bare.TABLES,
    register_ids.VBAR_EL1: bare.VECTORS,
    register_ids.GCR_EL1: bare.GCR,
    register_ids.CPACR_EL1: 3 << 20,
}


class Twin:
    """One of the two: a vCPU at EL1 with 128 KiB of RAM, a device, and a dirty log."""

    def __init__(self, *, plain: bool) -> None:
        self.native = NativeMachine(1, 0)
        self.region = Region.create(RAM_GPA, RAM_BYTES)
        self.native.add_ram(self.region)
        self.native.add_mmio(UART, 0x1000)
        self._dirty = PageBitmap(RAM_BYTES // 4096)
        self.leave = InterpreterExit()
        if plain:
            self.native.run_plainly()

    def close(self) -> None:
        self.native.close()
        self.region.close()

    def put(self, gpa: int, content: bytes) -> None:
        self.region.raw_data[gpa - RAM_GPA :][: len(content)] = memoryview(content)

    def begin(
        self, program: bytes, data: bytes, tags: bytes, registers: dict[RegisterId, int]
    ) -> None:
        """Put a program in place, with nothing in the dirty log."""
        for vector in range(bare.VECTORS, bare.VECTORS + 0x800, 0x80):
            self.put(vector, bare.encoded(_SKIP))
        for index, entry in enumerate(bare.BLOCKS):
            self.put(bare.TABLES + 8 * index, entry.to_bytes(8, "little"))
        self.put(bare.CODE, program)
        self.put(bare.DATA, data)
        self.region.raw_tags[(bare.DATA - RAM_GPA) // 32 :][: len(tags)] = memoryview(tags)
        for register, value in registers.items():
            assert self.native.set_register(0, register, value)
        self.forget_dirty_pages()

    def forget_dirty_pages(self) -> None:
        self._dirty.words.fill(0)
        self.native.set_dirty_log(0, self._dirty)

    def run(self, budget: int) -> None:
        """Execute at most `budget` instructions; each read of the device answers the same."""
        self.native.run(budget, self.leave)
        pending: InterpreterExit | None = self.leave
        while pending is not None and pending.reason == StopReason.MMIO:
            pending = self.native.complete_mmio(0, 0x1122_3344_5566_7788)

    def outcome(self) -> dict[str, object]:
        """Return all that the program has changed, by name."""
        found: dict[str, object] = {
            hex(register): self.native.get_register(0, register)
            for register in state_register_ids()
        }
        found["reason"] = self.leave.reason
        found["instructions"] = self.native.instructions(0)
        found["counter"] = self.native.counter()
        found["dirty"] = self._dirty.words.tobytes()
        found["data"] = self.region.raw_data.tobytes()
        found["tags"] = self.region.raw_tags.tobytes()
        return found


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
    values += [random_place(rng) for _ in range(31 - len(values))]
    mode = rng.choice((TagCheckMode.NONE, TagCheckMode.SYNC, TagCheckMode.ASYNC))
    return {
        **_FIXED,
        **{register_ids.x(number): value for number, value in enumerate(values)},
        register_ids.SCTLR_EL1: bare.sctlr(mode) | rng.getrandbits(1) << 3,  # SA
        register_ids.SP_EL1: data + 16 * 64 + rng.choice((0, 0, 0, 8)),
        register_ids.PSTATE: 0x3C5 | rng.getrandbits(4) << 28,
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
        a64.msr(a64.NZCV, register),
        a64.msr_tco(rng.getrandbits(1)),
        a64.stg(20, 20, 16 * rng.randrange(8)),
        a64.ldg(register, 20, 16 * rng.randrange(8)),
        a64.hint(0),
        a64.svc(),
        rng.getrandbits(32) & ~(0xF << 25),  # unallocated
    ))  # fmt: skip
