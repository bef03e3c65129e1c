"""Instruction forms for the program generator: loads and stores, atomics, MTE.

Left out, because the architecture leaves the result open (CONSTRAINED UNPREDICTABLE or
IMPLEMENTATION DEFINED) and implementations differ: write-back into the loaded or stored
register, pairs of the same register, store-exclusives that reuse a register or do not match
the load-exclusive before them, store-exclusives without a monitor to memory that would fault,
ordered and atomic accesses that are misaligned inside 16 bytes (allowed from FEAT_LSE2 on).

Left out, because QEMU user mode is no oracle for them (7.2 and 10.0 tried; what it does, what
the architecture says):
- LDAPUR and STLUR with a wrong tag: not checked; Tag Checked like every other access.
- DC ZVA with a non-zero top byte: translation fault; the top byte is ignored (TBI).
- atomics (LDADD to SWP) on read-only memory with a wrong tag: tag check fault; permission faults
  have the higher priority. Together with asynchronous checking it loops.
- a misaligned atomic or ordered access with a wrong tag: 7.2 reports the tag, the alignment
  fault has the higher priority. LDAPR misaligned: executes in 7.2.
- DC CVAP and CVADP: undefined in 7.2, translation fault on read-only memory in 10.0.
"""

from collections.abc import Callable

from tagalong.mte import GRANULE_BYTES
from tests.support import a64
from tests.support.oracle_draw import POINTER_REGISTERS, SCRATCH, Draw
from tests.support.oracle_forms_data import Form
from tests.support.oracle_layout import AREA_END, DATA, PAGE_BYTES, PLAIN, READONLY

_LOADS_AND_STORES = (
    a64.STRB, a64.LDRB, a64.LDRSB_X, a64.LDRSB_W, a64.STRH, a64.LDRH, a64.LDRSH_X, a64.LDRSH_W,
    a64.STR_W, a64.LDR_W, a64.LDRSW, a64.STR_X, a64.LDR_X,
)  # fmt: skip
_PAIRS = (a64.STP_W, a64.LDP_W, a64.LDPSW, a64.STP_X, a64.LDP_X)
_PAGE_GRANULES = PAGE_BYTES // GRANULE_BYTES
_SECOND_SCRATCH = 15
_ALIGN_TO_GRANULE = (1, 60, 59)  # the bitmask immediate ~15
_WITHOUT_TOP_BYTE = (1, 0, 55)  # the bitmask immediate 0x00ff_ffff_ffff_ffff


def _other(draw: Callable[[], int], *taken: int) -> int:
    """Draw a register that is none of `taken`."""
    register = draw()
    while register in taken:
        register = draw()
    return register


# --- one register -------------------------------------------------------------------------


def unsigned_offset(d: Draw) -> list[int]:
    kind = d.pick((*_LOADS_AND_STORES, a64.PRFM))
    units = d.bits(4) if d.chance(90) else d.bits(9)
    return [a64.ldst(kind, d.target(), d.base(), units << kind[0])]


def signed_offset(d: Draw) -> list[int]:
    mode = d.pick((a64.UNSCALED, a64.UNPRIVILEGED))
    return [a64.ldst9(d.pick(_LOADS_AND_STORES), mode, d.target(), d.base(), d.signed(9))]


def write_back(d: Draw) -> list[int]:
    base = d.base()
    mode = d.pick((a64.PRE, a64.POST))
    offset = d.signed(9) if d.bits(1) else 16 * d.signed(4)
    rt = _other(d.target, base)
    return [a64.ldst9(d.pick(_LOADS_AND_STORES), mode, rt, base, offset)]


def register_offset(d: Draw) -> list[int]:
    kind = d.pick((*_LOADS_AND_STORES, a64.PRFM))
    offset = (a64.movn if d.bits(1) else a64.movz)(SCRATCH, d.bits(6), sf=d.bits(1))
    option = d.pick((a64.UXTW, a64.UXTX, a64.SXTW, a64.SXTX))
    # The last of PRFM's operations are FEAT_RPRFM's RPRFM.
    rt = _other(d.target, *range(24, 32)) if kind == a64.PRFM else d.target()
    access = a64.ldst_reg(kind, rt, d.base(), SCRATCH, option=option, scale=d.bits(1))
    return [offset, access]


def literal_target(d: Draw) -> int:
    """Draw an address for a literal load: in the data, or near the instruction."""
    return d.randrange(DATA, AREA_END) & ~3 if d.chance(70) else d.pc + 4 * d.signed(5)


def literal(d: Draw) -> list[int]:
    return [a64.ldr_literal(d.bits(2), d.target(), literal_target(d) - d.pc)]


def pair(d: Draw) -> list[int]:
    kind = d.pick(_PAIRS)
    modes = (a64.PAIR_OFFSET, a64.PAIR_PRE, a64.PAIR_POST)
    # The no-allocate form of opc 01 is unallocated.
    mode = d.pick(modes if kind == a64.LDPSW else (*modes, a64.PAIR_NO_ALLOCATE))
    base = d.base()
    rt = _other(d.target, base)
    rt2 = _other(d.target, base, rt)
    return [a64.pair(kind, mode, rt, rt2, base, d.signed(6) * (8 if kind[0] == 2 else 4))]


LOADS_AND_STORES: tuple[Form, ...] = (
    unsigned_offset,
    signed_offset,
    write_back,
    register_offset,
    literal,
    pair,
)


# --- ordered, exclusive and atomic --------------------------------------------------------


def _fresh_address(d: Draw, area: int, granules: int = _PAGE_GRANULES) -> list[int]:
    """Put the aligned address of any of the granules from `area` on into SCRATCH, well tagged."""
    address = area + d.randrange(granules) * GRANULE_BYTES
    return [*a64.mov_value(SCRATCH, address), a64.ldg(SCRATCH, SCRATCH)]


def _step(offset: int) -> list[int]:
    return [a64.add_imm(SCRATCH, SCRATCH, offset)] if offset else []


def _well_tagged(d: Draw, size_bytes: int) -> list[int]:
    """Put an aligned address from a pointer register into SCRATCH, with its granule's tag."""
    return [
        a64.logical_imm(0, SCRATCH, d.pick(POINTER_REGISTERS), _ALIGN_TO_GRANULE),
        a64.ldg(SCRATCH, SCRATCH),
        *_step(d.randrange(GRANULE_BYTES // size_bytes) * size_bytes),
    ]


def _badly_tagged(d: Draw, size_bytes: int) -> list[int]:
    """Put an aligned address in DATA into SCRATCH, mostly with a wrong tag."""
    offset = d.randrange(GRANULE_BYTES // size_bytes) * size_bytes
    return [*_fresh_address(d, DATA), a64.addg(SCRATCH, SCRATCH, 0, d.bits(4)), *_step(offset)]


def _crossing(d: Draw, size_bytes: int) -> list[int]:
    """Put an untagged address into SCRATCH from which the access crosses a granule's end."""
    offset = GRANULE_BYTES - d.randint(1, size_bytes - 1)
    return [*_fresh_address(d, PLAIN, _PAGE_GRANULES - 1), *_step(offset)]


def _mapped(d: Draw, size_bytes: int) -> list[int]:
    """Put an aligned, well tagged address into SCRATCH where at least loads never fault."""
    area = d.pick((DATA, DATA, DATA, PLAIN, READONLY))
    offset = d.randrange(GRANULE_BYTES // size_bytes) * size_bytes
    return [*_fresh_address(d, area), *_step(offset)]


def _address(d: Draw, size_bytes: int) -> list[int]:
    percent = d.random() * 100
    if percent < 4 and size_bytes > 1:
        return _crossing(d, size_bytes)
    return _badly_tagged(d, size_bytes) if percent < 20 else _well_tagged(d, size_bytes)


def _operand(d: Draw) -> int:
    """Draw any register except the address register."""
    return _other(d.target, SCRATCH)


def load_acquire_store_release(d: Draw) -> list[int]:
    size = d.bits(2)
    kind = d.randrange(3)
    if kind == 0:
        return [*_address(d, 1 << size), a64.ldar(size, _operand(d), SCRATCH, d.bits(1))]
    if kind == 1:
        return [*_address(d, 1 << size), a64.stlr(size, _operand(d), SCRATCH, d.bits(1))]
    words = _badly_tagged(d, 1 << size) if d.chance(15) else _well_tagged(d, 1 << size)
    return [*words, a64.ldapr(size, _operand(d), SCRATCH)]


def unscaled_acquire_release(d: Draw) -> list[int]:
    kind = d.pick(_LOADS_AND_STORES)
    offset = d.signed(9)
    words = _well_tagged(d, 1 << kind[0])
    words += [*_step(255 - offset), a64.sub_imm(SCRATCH, SCRATCH, 255)]
    return [*words, a64.ldapur(kind, _operand(d), SCRATCH, offset)]


def exclusive(d: Draw) -> list[int]:
    """Draw a load-exclusive, and the store-exclusive that belongs to it or CLREX.

    The branch lets a pending asynchronous fault end: the oracle's monitor would be lost with it.
    """
    size = d.bits(2)
    loaded = _operand(d)
    status = _other(lambda: _operand(d), loaded)
    stored = _other(lambda: _operand(d), status)
    words = [*_mapped(d, 1 << size), a64.b(4), a64.ldxr(size, loaded, SCRATCH, d.bits(1))]
    if d.chance(15):
        return [*words, a64.barrier(2)]
    words += [a64.hint(0)] * d.bits(1)
    return [*words, a64.stxr(size, status, stored, SCRATCH, d.bits(1))]


def exclusive_pair(d: Draw) -> list[int]:
    size = 2 + d.bits(1)
    first = _operand(d)
    second = _other(lambda: _operand(d), first)
    status = _other(lambda: _operand(d), first, second)
    load = a64.ldxp(size, first, second, SCRATCH, d.bits(1))
    store = a64.stxp(size, status, first, second, SCRATCH, d.bits(1))
    return [*_mapped(d, 2 << size), a64.b(4), load, store]


def failing_exclusive(d: Draw) -> list[int]:
    """Draw a load-exclusive that faults, or a store-exclusive that finds no monitor."""
    size = d.bits(2)
    rt = _operand(d)
    if d.bits(1):
        bad = d.pick((_badly_tagged, _badly_tagged, _well_tagged))
        crossing = size and d.chance(20)
        words = _crossing(d, 1 << size) if crossing else bad(d, 1 << size)
        return [*words, a64.ldxr(size, rt, SCRATCH), a64.barrier(2)]
    status = _other(lambda: _operand(d), rt)
    return [*_fresh_address(d, DATA), a64.barrier(2), a64.stxr(size, status, rt, SCRATCH)]


_ATOMICS = (
    a64.LDADD, a64.LDCLR, a64.LDEOR, a64.LDSET, a64.LDSMAX, a64.LDSMIN, a64.LDUMAX, a64.LDUMIN,
    a64.SWP,
)  # fmt: skip


def atomic(d: Draw) -> list[int]:
    size = d.bits(2)
    words = _address(d, 1 << size)
    operands = _operand(d), _operand(d)
    return [*words, a64.atomic(size, d.pick(_ATOMICS), *operands, SCRATCH, d.bits(2))]


def compare_and_swap(d: Draw) -> list[int]:
    """Draw a CAS; half of them compare with what is there."""
    size = d.bits(2)
    words = _address(d, 1 << size)
    compare = _operand(d)
    if d.bits(1) and compare != a64.ZR:
        words.append(a64.ldst((size, 1), compare, SCRATCH))
    return [*words, a64.cas(size, compare, _operand(d), SCRATCH, d.bits(1), d.bits(1))]


def compare_and_swap_pair(d: Draw) -> list[int]:
    sf = d.bits(1)
    words = _address(d, 8 << sf)
    compare = 2 * d.pick((*range(8), 15))
    if d.bits(1):
        kind = a64.LDP_X if sf else a64.LDP_W
        words.append(a64.pair(kind, a64.PAIR_OFFSET, compare, compare + 1, SCRATCH))
    new = 2 * d.pick((*range(8), 15))
    return [*words, a64.casp(sf, compare, new, SCRATCH, d.bits(1), d.bits(1))]


def _through_stack(words: list[int]) -> list[int]:
    """Move the address from SCRATCH to SP, where no tag is checked."""
    to_stack = a64.add_imm(a64.SP, SCRATCH, 0)
    changed: list[int] = []
    for word in words:
        is_access = word >> 25 & 0b101 == 0b100 and word >> 5 & 31 == SCRATCH
        if not is_access or word >> 24 == a64.ldg(0, 0) >> 24:
            changed.append(word)
            continue
        if to_stack not in changed:
            changed.append(to_stack)
        changed.append(word | a64.SP << 5)
    return changed


def _any_base(form: Form) -> Form:
    def draw(d: Draw) -> list[int]:
        words = form(d)
        return _through_stack(words) if d.chance(12) else words

    return draw


ATOMICS: tuple[Form, ...] = tuple(
    _any_base(form)
    for form in (
        load_acquire_store_release,
        unscaled_acquire_release,
        exclusive,
        exclusive_pair,
        failing_exclusive,
        atomic,
        compare_and_swap,
        compare_and_swap_pair,
    )
)


# --- MTE ----------------------------------------------------------------------------------


def _pointer_target(d: Draw) -> int:
    return d.pick(POINTER_REGISTERS) if d.bits(1) else d.target_sp()


def tag_arithmetic(d: Draw) -> list[int]:
    kind = d.randrange(4)
    if kind == 0:
        form = d.pick((a64.addg, a64.subg))
        offset = 16 * (d.bits(2) if d.chance(80) else d.bits(6))
        return [form(_pointer_target(d), d.base(), offset, d.bits(4))]
    if kind == 1:
        return [a64.irg(_pointer_target(d), d.base(), a64.ZR if d.bits(1) else d.source())]
    if kind == 2:
        return [a64.gmi(d.target(), d.base(), d.source())]
    return [a64.subp(d.target(), d.base(), d.base(), s=d.bits(1))]


def new_pointer(d: Draw) -> list[int]:
    """Draw a pointer register made anew: an address, then the tag of its granule, or another."""
    register = d.pick((*POINTER_REGISTERS, a64.SP))
    work = SCRATCH if register == a64.SP else register
    words = a64.mov_value(work, d.address())
    if d.chance(85):
        words.append(a64.ldg(work, work))
    if d.chance(10):
        words.append(a64.addg(work, work, 0, d.bits(4)))
    return [*words, a64.add_imm(a64.SP, SCRATCH, 0)] if register == a64.SP else words


def load_tag(d: Draw) -> list[int]:
    base = d.base()
    rt = base if d.bits(1) and base != a64.SP else d.target()
    return [a64.ldg(rt, base, 16 * (d.signed(4) if d.chance(90) else d.signed(9)))]


_TAG_STORE_MODES = (a64.OFFSET, a64.PRE, a64.POST)


def _offset(d: Draw) -> int:
    return GRANULE_BYTES * (d.signed(4) if d.chance(92) else d.signed(7))


def _aligned_base(d: Draw) -> tuple[list[int], int]:
    """Draw a base register that is mostly, not always, aligned to its granule."""
    if d.chance(40):
        return [], d.base()
    base = d.pick(POINTER_REGISTERS)
    return [a64.logical_imm(0, base, base, _ALIGN_TO_GRANULE)], base


def store_tag(d: Draw) -> list[int]:
    words, base = _aligned_base(d)
    tagged = base if d.chance(60) else d.source()
    return [*words, a64.tag_store(d.bits(2), d.pick(_TAG_STORE_MODES), tagged, base, _offset(d))]


def retag(d: Draw) -> list[int]:
    """Draw what an allocator does: a new tag for a pointer, its granules set to it."""
    words, base = _aligned_base(d)
    new = base if base != a64.SP else d.pick(POINTER_REGISTERS)
    words += [a64.gmi(SCRATCH, base, a64.ZR)] if d.bits(1) else [a64.movz(SCRATCH, d.bits(16))]
    words.append(a64.irg(new, base, SCRATCH))
    return [*words, a64.tag_store(d.bits(2), d.pick(_TAG_STORE_MODES), new, base, _offset(d))]


def store_tag_and_pair(d: Draw) -> list[int]:
    words, base = _aligned_base(d)
    mode = d.pick((a64.PAIR_OFFSET, a64.PAIR_PRE, a64.PAIR_POST))
    return [*words, a64.stgp(mode, d.source(), d.source(), base, 16 * d.signed(4))]


def zero_block(d: Draw) -> list[int]:
    """Draw DC ZVA, GVA or GZVA, behind an indirect branch to it.

    QEMU 7.2 takes the PC of a fault of ZVA and GZVA from where only such a branch puts it.
    """
    pointer = d.pick(POINTER_REGISTERS)
    operation = d.pick((a64.DC_ZVA, a64.DC_GVA, a64.DC_GZVA))
    if operation != a64.DC_ZVA:
        return [a64.adr(SCRATCH, 8), a64.br(SCRATCH), a64.sys(operation, pointer)]
    return [
        a64.logical_imm(0, SCRATCH, pointer, _WITHOUT_TOP_BYTE),
        a64.adr(_SECOND_SCRATCH, 8),
        a64.br(_SECOND_SCRATCH),
        a64.sys(operation, SCRATCH),
    ]


_CLEANS = (
    a64.DC_CVAC, a64.DC_CGVAC, a64.DC_CGDVAC, a64.DC_CIVAC, a64.DC_CIGVAC, a64.DC_CIGDVAC,
    a64.DC_CVAU, a64.IC_IVAU,
)  # fmt: skip


def cache_clean(d: Draw) -> list[int]:
    """Draw cache maintenance on memory that is there; the oracle never lets it fault."""
    return [
        *a64.mov_value(SCRATCH, d.randrange(DATA, DATA + 4096)),
        a64.sys(d.pick(_CLEANS), SCRATCH),
    ]


MTE: tuple[Form, ...] = (
    tag_arithmetic,
    tag_arithmetic,
    new_pointer,
    load_tag,
    load_tag,
    store_tag,
    store_tag,
    retag,
    store_tag_and_pair,
    zero_block,
    cache_clean,
)
