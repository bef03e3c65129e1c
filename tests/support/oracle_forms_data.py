"""Instruction forms for the program generator: data processing, branches, system.

A form draws one chunk: a list of encodings that makes sense at any place.
"""

from collections.abc import Callable, Sequence

from tests.support import a64
from tests.support.oracle_draw import LOOP_COUNTER, SCRATCH, Draw

Form = Callable[[Draw], list[int]]


# --- data processing, immediate -----------------------------------------------------------


def add_sub_immediate(d: Draw) -> list[int]:
    s = d.bits(1)
    rd = d.target() if s else d.target_sp()
    form = d.pick((a64.add_imm, a64.sub_imm))
    return [form(rd, d.source(), d.bits(12), sf=d.bits(1), s=s, shift12=d.bits(1))]


def bitmask_fields(d: Draw, sf: int) -> tuple[int, int, int]:
    """Draw N, immr and imms of a valid bitmask immediate (Arm ARM, DecodeBitMasks)."""
    log2 = d.randint(1, 6 if sf else 5)
    size = 1 << log2
    ones = d.randint(1, size - 1)
    prefix = 0x3F & ~((size << 1) - 1)
    return int(log2 == 6), d.randrange(size), prefix | (ones - 1)


def logical_immediate(d: Draw) -> list[int]:
    opc, sf = d.bits(2), d.bits(1)
    rd = d.target() if opc == 3 else d.target_sp()
    return [a64.logical_imm(opc, rd, d.source(), bitmask_fields(d, sf), sf)]


def move_wide(d: Draw) -> list[int]:
    sf = d.bits(1)
    shift = 16 * d.bits(2 if sf else 1)
    return [d.pick((a64.movn, a64.movz, a64.movk))(d.target(), d.bits(16), shift, sf)]


def bitfield(d: Draw) -> list[int]:
    sf = d.bits(1)
    width = 6 if sf else 5
    return [a64.bitfield(d.randrange(3), d.target(), d.source(), d.bits(width), d.bits(width), sf)]


def extract(d: Draw) -> list[int]:
    sf = d.bits(1)
    return [a64.extr(d.target(), d.source(), d.source(), d.bits(6 if sf else 5), sf)]


def pc_relative(d: Draw) -> list[int]:
    return [a64.adr(d.target(), d.signed(21)) if d.bits(1) else a64.adrp(d.target(), d.signed(21))]


# --- data processing, register ------------------------------------------------------------


def logical_register(d: Draw) -> list[int]:
    sf = d.bits(1)
    return [
        a64.logical_reg(
            d.bits(2),
            d.target(),
            d.source(),
            d.source(),
            invert=d.bits(1),
            shift=d.bits(2),
            by=d.bits(6 if sf else 5),
            sf=sf,
        )
    ]


def add_sub_shifted(d: Draw) -> list[int]:
    sf = d.bits(1)
    return [
        a64.add_reg(
            d.target(),
            d.source(),
            d.source(),
            sub=d.bits(1),
            s=d.bits(1),
            shift=d.randrange(3),
            by=d.bits(6 if sf else 5),
            sf=sf,
        )
    ]


def add_sub_extended(d: Draw) -> list[int]:
    s = d.bits(1)
    return [
        a64.add_ext(
            d.target() if s else d.target_sp(),
            d.source(),
            d.source(),
            sub=d.bits(1),
            s=s,
            option=d.bits(3),
            by=d.randrange(5),
            sf=d.bits(1),
        )
    ]


def add_sub_carry(d: Draw) -> list[int]:
    return [a64.adc(d.target(), d.source(), d.source(), sub=d.bits(1), s=d.bits(1), sf=d.bits(1))]


def flag_manipulation(d: Draw) -> list[int]:
    kind = d.randrange(4)
    if kind == 0:
        return [a64.rmif(d.source(), d.bits(6), d.bits(4))]
    if kind == 1:
        return [a64.setf(d.source(), d.bits(1))]
    if kind == 2:
        return [a64.msr_imm(0, d.randrange(3), 0)]
    return [a64.msr(a64.NZCV, d.source())] if d.bits(1) else [a64.mrs(d.target(), a64.NZCV)]


def conditional_compare(d: Draw) -> list[int]:
    return [
        a64.ccmp(
            d.source(),
            d.bits(5),
            d.bits(4),
            d.bits(4),
            sub=d.bits(1),
            imm=d.bits(1),
            sf=d.bits(1),
        )
    ]


def conditional_select(d: Draw) -> list[int]:
    return [
        a64.csel(
            d.target(),
            d.source(),
            d.source(),
            d.bits(4),
            op=d.bits(1),
            op2=d.bits(1),
            sf=d.bits(1),
        )
    ]


_MULTIPLICATIONS = (
    a64.MADD, a64.MSUB, a64.SMADDL, a64.SMSUBL, a64.SMULH, a64.UMADDL, a64.UMSUBL, a64.UMULH,
)  # fmt: skip


def multiplication(d: Draw) -> list[int]:
    kind = d.pick(_MULTIPLICATIONS)
    sf = d.bits(1) if kind in {a64.MADD, a64.MSUB} else 1
    ra = a64.ZR if kind in {a64.SMULH, a64.UMULH} else d.source()
    return [a64.multiply(kind, d.target(), d.source(), d.source(), ra, sf)]


def two_sources(d: Draw) -> list[int]:
    if d.chance(35):
        return [a64.crc32(d.target(), d.source(), d.source(), d.bits(2), d.bits(1))]
    opcode = d.pick((2, 3, 8, 9, 10, 11))
    return [a64.two_source(opcode, d.target(), d.source(), d.source(), d.bits(1))]


def one_source(d: Draw) -> list[int]:
    sf = d.bits(1)
    opcode = d.pick((0, 1, 2, 3, 4, 5) if sf else (0, 1, 2, 4, 5))
    return [a64.one_source(opcode, d.target(), d.source(), sf)]


DATA_PROCESSING: tuple[Form, ...] = (
    add_sub_immediate,
    logical_immediate,
    move_wide,
    bitfield,
    extract,
    pc_relative,
    logical_register,
    add_sub_shifted,
    add_sub_extended,
    add_sub_carry,
    flag_manipulation,
    conditional_compare,
    conditional_select,
    multiplication,
    two_sources,
    one_source,
)


# --- branches: forward over a few instructions of the same chunk, and counted loops --------


def _body(d: Draw, most: int) -> list[int]:
    return [d.pick(DATA_PROCESSING)(d)[0] for _ in range(d.randint(0, most))]


def forward_branch(d: Draw) -> list[int]:
    body = _body(d, 4)
    offset = 4 + 4 * len(body)
    kind = d.randrange(5)
    if kind == 0:
        head = a64.b_cond(d.bits(4), offset)
    elif kind == 1:
        head = a64.cbz(d.source(), offset, nonzero=d.bits(1), sf=d.bits(1))
    elif kind == 2:
        head = a64.tbz(d.source(), d.bits(6), offset, nonzero=d.bits(1))
    else:
        head = a64.b(offset) if kind == 3 else a64.bl(offset)
    return [head, *body]


def register_branch(d: Draw) -> list[int]:
    body = _body(d, 3)
    register = d.pick((SCRATCH, a64.LR))
    head = d.pick((a64.br, a64.blr, a64.ret))(register)
    return [a64.adr(register, 8 + 4 * len(body)), head, *body]


def uses(word: int, register: int) -> bool:
    """Tell whether any register field of `word` may name `register`."""
    return any(word >> low & 31 == register for low in (0, 5, 10, 16))


def counted_loop(d: Draw, body: Sequence[int]) -> list[int]:
    """Repeat `body` a few times; return it as it is if it may touch the counter."""
    if any(uses(word, LOOP_COUNTER) for word in body):
        return list(body)
    return [
        a64.movz(LOOP_COUNTER, d.randint(2, 4)),
        *body,
        a64.sub_imm(LOOP_COUNTER, LOOP_COUNTER, 1, s=d.bits(1)),
        a64.cbz(LOOP_COUNTER, -4 * (len(body) + 1), nonzero=1),
    ]


BRANCHES: tuple[Form, ...] = (forward_branch, register_branch)


# --- system -------------------------------------------------------------------------------


def tco(d: Draw) -> list[int]:
    """Draw a toggle of PSTATE.TCO; more often off than on, as checks are what we compare."""
    kind = d.randrange(4)
    if kind < 2:
        return [a64.msr_tco(int(d.chance(35)))]
    if kind == 2:
        return [a64.mrs(d.target(), a64.TCO)]
    return [a64.movz(SCRATCH, d.bits(16), 16), a64.msr(a64.TCO, SCRATCH)]


def barriers_and_hints(d: Draw) -> list[int]:
    """Draw barriers, CLREX and the hints that change nothing (NOP, YIELD, SEV, SEVL, CSDB, BTI)."""
    if d.bits(1):
        return [a64.hint(d.pick((0, 1, 4, 5, 20, 32, 34, 36, 38)))]
    op2 = d.pick((2, 4, 5, 6, 7))
    return [a64.barrier(op2, 0 if op2 == 7 else d.randint(1, 15))]


def thread_register(d: Draw) -> list[int]:
    if d.bits(1):
        return [a64.msr(a64.TPIDR_EL0, d.source())]
    return [a64.mrs(d.target(), d.pick((a64.TPIDR_EL0, a64.TPIDRRO_EL0, a64.DCZID_EL0)))]


def always_undefined(d: Draw) -> list[int]:
    return [a64.udf(d.bits(16)) if d.bits(1) else a64.brk(d.bits(16))]


def undefined_at_el0(d: Draw) -> list[int]:
    """Draw what only EL1 may execute; nothing harmful is left for privileged programs."""
    if d.privileged:
        return always_undefined(d)
    registers = (a64.GCR_EL1, a64.RGSR_EL1, a64.TFSR_EL1, a64.TFSRE0_EL1, a64.SCTLR_EL1)
    kind = d.randrange(4)
    if kind == 0:
        return [a64.mrs(d.target(), d.pick(registers))]
    if kind == 1:
        return [a64.msr(d.pick(registers), d.source())]
    if kind == 2:
        return [d.pick((a64.hvc, a64.smc))(d.bits(16))]
    return [d.pick((a64.ldgm, a64.stgm, a64.stzgm))(d.source(), d.base())]


SYSTEM: tuple[Form, ...] = (
    tco,
    tco,
    barriers_and_hints,
    thread_register,
    always_undefined,
    undefined_at_el0,
)
