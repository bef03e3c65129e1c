"""Random instruction words: what is unallocated must be UNDEFINED on both sides.

Words come from the integer, SIMD and floating-point, load/store and MTE spaces, either any bits or
a valid instruction with a bit or two flipped; from the spaces of branches, exceptions and system
instructions only what is unallocated or harmless. `excluded` says what is left out, and why.
"""

from collections.abc import Callable

from tagalong.disassembly import disassemble
from tagalong.mte import GRANULE_BYTES
from tests.support import a64
from tests.support.oracle_draw import SCRATCH, Draw
from tests.support.oracle_forms_data import DATA_PROCESSING
from tests.support.oracle_forms_fp import FLOATING_POINT
from tests.support.oracle_forms_memory import ATOMICS, LOADS_AND_STORES, MTE
from tests.support.oracle_forms_simd import SIMD
from tests.support.oracle_forms_simd_memory import SIMD_MEMORY
from tests.support.oracle_layout import DATA, DATA_BYTES, DATA_GRANULES, SLOTS, slot_address
from tests.support.oracle_program import Program, State

WORDS = 100

# Extensions that are allocated but not part of the embedded machine (an Armv8.5 without pointer
# authentication, complex numbers and matrices), and that one oracle has and another has not: mask,
# value.
_EXTENSIONS = {
    "PAuth, one source": (0xFFFF0000, 0xDAC10000),
    "PAuth, PACGA": (0xFFE0FC00, 0x9AC03000),
    "PAuth, LDRAA and LDRAB": (0xFF200400, 0xF8200400),
    "PAuth, branches": (0xFE00F800, 0xD6000800),
    "PAuth_LR, immediates": (0xFF800000, 0xF3800000),
    "CSSC, minimum and maximum immediate": (0x1FC00000, 0x11C00000),
    "CSSC, CTZ and CNT": (0x7FFFF800, 0x5AC01800),
    "CSSC, ABS": (0x7FFFFC00, 0x5AC02000),
    "CSSC, minimum and maximum": (0x7FE0F000, 0x1AC06000),
    "CPA, ADDPT and SUBPT": (0xBFE0E000, 0x9A002000),
    "CPA, MADDPT and MSUBPT": (0xFFE00000, 0x9B600000),
    "LSE128, THE, LSUI": (0xBF200000, 0x19200000),
    "LSUI, exclusives": (0x3F000000, 0x09000000),
    "LSUI, pairs": (0xFC000000, 0xE8000000),
    "LS64 and THE, opc 001": (0x3F20FC00, 0x38209000),
    "LS64 and THE, opc 01x": (0x3F20EC00, 0x3820A000),
    "LS64, LD64B": (0x3F20FC00, 0x3820D000),
    "LRCPC3": (0xBF200C00, 0x99000800),
    "MOPS": (0x3B200C00, 0x19000400),
    "GCS": (0xFF200C00, 0xD9000C00),
    "RPRFM": (0xFFE00C18, 0xF8A00818),
    "TME, TCANCEL": (0xFFE0001F, 0xD4600000),
    "SHA512, SHA3, SM3, SM4": (0xFF000000, 0xCE000000),
    "FCMA and BF16, three registers": (0xBF20C400, 0x2E00C400),
    "FCMA, by element": (0xBF009400, 0x2F001000),
    "FHM": (0xBF60FC00, 0x0E20EC00),
    "FHM, upper half": (0xBF60FC00, 0x2E20CC00),
    "FHM, by element": (0xBFC0B400, 0x0F800000),
    "FHM, by element, upper half": (0xBFC0B400, 0x2F808000),
    "I8MM, USDOT": (0xBF20FC00, 0x0E009C00),
    "I8MM, matrices": (0x9F20F400, 0x0E00A400),
    "I8MM and BF16, by element": (0xBF00F400, 0x0F00F000),
    "BF16, BFCVT": (0xFFFFFC00, 0x1E634000),
    "BF16, BFCVTN": (0xBFFFFC00, 0x0EA16800),
    "FRINTTS": (0xFF3E7C00, 0x1E284000),
    "FRINTTS, vectors": (0x9FBFEC00, 0x0E21E800),
    "JSCVT": (0xFFFFFC00, 0x1E7E0000),
    # Claimed, but QEMU (7.2) extends the sign of the result to 32 bits; see oracle_forms_fp.
    "FCVTZS of a half as a scalar, fixed point": (0xFFF0FC00, 0x5F10FC00),
    "LRCPC3, vector registers": (0x3F200C00, 0x1D000800),
    "LRCPC3, LDAP1 and STL1": (0xBF9FFC00, 0x0D018400),
}

# Should-be-one and should-be-zero fields that are not: CONSTRAINED UNPREDICTABLE; and those of half
# precision that the manual decodes and QEMU (7.2) does not look at.
# mask and value of the instruction, mask and value of the field as it should be.
_FIXED_FIELDS = {
    "SMULH and UMULH, Ra": ((0xFF608000, 0x9B400000), (0x1F << 10, 0x1F << 10)),
    "ADDG and SUBG, op3": ((0xBFC00000, 0x91800000), (3 << 14, 0)),
    "LDXR, Rs": ((0x3FE00000, 0x08400000), (0x1F << 16, 0x1F << 16)),
    "LDXP, Rs": ((0xBFE00000, 0x88600000), (0x1F << 16, 0x1F << 16)),
    "LDAR, STLR, Rs": ((0x3FA00000, 0x08800000), (0x1F << 16, 0x1F << 16)),
    "LDXR, STXR, LDAR, STLR, Rt2": ((0x3F200000, 0x08000000), (0x1F << 10, 0x1F << 10)),
    "FMAXV and its kin of halves, size": ((0xBF3FCC00, 0x0E30C800), (1 << 22, 0)),
    "FMAXP and its kin of scalar halves, size": ((0xFF3FCC00, 0x5E30C800), (1 << 22, 0)),
    "FMOV of halves, op": ((0x9FF8FC00, 0x0F00FC00), (1 << 29, 0)),
    "LDAPR, Rs": ((0x3F20FC00, 0x3820C000), (0x1F << 16, 0x1F << 16)),
}


def excluded(word: int, *, privileged: bool) -> str:
    """Return why a word cannot be compared, or nothing if it can."""
    for reason, (mask, value) in _EXTENSIONS.items():
        if word & mask == value:
            return reason
    for reason, ((mask, value), (field, expected)) in _FIXED_FIELDS.items():
        if word & mask == value and word & field != expected:
            return f"{reason} is not as it should be"
    if _is_unallocated_half(word):
        return "unallocated, two registers of halves"
    if _is_load_store(word):
        return _excluded_load_store(word, privileged=privileged)
    if word >> 26 & 7 == 5:  # branches, exceptions, system
        return _excluded_branch(word, privileged=privileged)
    return ""


def _is_unallocated_half(word: int) -> bool:
    """Tell whether a word is an unallocated one of two registers of halves.

    QEMU (7.2) executes some of them, and aborts at others.
    """
    is_in_group = word & 0x8F7E0C00 == 0x0E780800 and word >> 28 & 5 != 1
    return is_in_group and disassemble(word, 0) == "no disassembly"


def _is_load_store(word: int) -> bool:
    return word >> 27 & 1 == 1 and word >> 25 & 1 == 0


def _excluded_load_store(word: int, *, privileged: bool) -> str:
    rt, rn, is_vector = word & 31, word >> 5 & 31, word >> 26 & 1
    if word >> 24 & 0x3F == 0b001000:
        return _excluded_exclusive(word)
    if word >> 27 & 7 == 0b101:
        return _excluded_pair(word)
    rules = {
        "LDAPUR and STLUR: misaligned or with another granule's tag": (
            word & 0x3F200C00 == 0x19000000 and word >> 12 & 0x1FF
        ),
        "LDGM, STGM and STZGM are for EL1": (
            privileged and word & 0xFF3FFC00 == 0xD9200000 and word >> 22 & 3 != 1
        ),
        "write-back into the register itself": (
            word & 0x3F200400 == 0x38000400 and not is_vector and rt == rn != a64.SP
        ),
    }
    return next((reason for reason, applies in rules.items() if applies), "")


def _excluded_pair(word: int) -> str:
    rt, rn, rt2 = (word >> low & 31 for low in (0, 5, 10))
    load, writes_back = word >> 22 & 1, word >> 23 & 1 and not word >> 26 & 1
    if word & 0xFE400000 == 0x68000000:
        return ""  # STGP has no such restriction
    into_itself = writes_back and rn != a64.SP and rn in {rt, rt2}
    return "pair with the same register twice" if into_itself or (load and rt == rt2) else ""


def _excluded_exclusive(word: int) -> str:
    rt, rn, rt2, rs = (word >> low & 31 for low in (0, 5, 10, 16))
    o2, load, o1 = word >> 23 & 1, word >> 22 & 1, word >> 21 & 1
    is_pair = o1 and word >> 31
    if o2 or (o1 and not is_pair):
        return ""
    if load:
        return "pair with the same register twice" if is_pair and rt == rt2 else ""
    taken = {rt, rt2} if is_pair else {rt}
    return "status in a register in use" if rs in taken | ({rn} - {a64.SP}) else ""


def _excluded_branch(word: int, *, privileged: bool) -> str:
    if word >> 25 == 0b1101011:  # branch to a register
        allocated = word >> 10 & 0x7FF == 0x7C0 and not word & 31
        return "branch" if allocated else ""
    if word >> 24 == 0b11010100:  # exceptions
        opc, operation = word >> 21 & 7, word & 31
        if opc == 2 and not operation:
            return "HLT may be a call to the simulator"
        return (
            "SVC, HVC or SMC"
            if opc == 0 and operation in ({1, 2, 3} if privileged else {1})
            else ""
        )
    return _excluded_system(word, privileged=privileged)


def _excluded_system(word: int, *, privileged: bool) -> str:
    if privileged:
        return "system instruction at EL1"
    crm, op2 = word >> 8 & 15, word >> 5 & 7
    space = word & 0xFFFFF000
    if space == 0xD5032000:
        number = crm << 3 | op2
        waits_or_authenticates = {2, 3, 7, 8, 10, 12, 14, *range(24, 32)}
        return "WFE, WFI or PAuth" if number in waits_or_authenticates else ""
    if space == 0xD5033000:
        return "WFxT, DSB nXS or TME" if op2 in {0, 1, 3} else ""
    if word & 0xFFF8F000 == 0xD5004000:
        return "SVCR" if word >> 16 & 7 == 3 and op2 == 3 else ""
    return "system register or instruction"


# --- drawing words ------------------------------------------------------------------------

_FORMS = (
    *DATA_PROCESSING, *DATA_PROCESSING, *LOADS_AND_STORES, *ATOMICS, *MTE, *FLOATING_POINT, *SIMD,
    *SIMD_MEMORY,
)  # fmt: skip


def _any_of(fixed: int, mask: int) -> Callable[[Draw], int]:
    return lambda d: d.bits(32) & ~mask | fixed


def _flipped(d: Draw) -> int:
    word = d.pick(d.pick(_FORMS)(d))
    for _ in range(d.randint(1, 2)):
        word ^= 1 << d.bits(5)
    return word


# Drawing functions and their weights.
_SPACES: tuple[tuple[Callable[[Draw], int], int], ...] = (
    (_flipped, 40),
    (_any_of(0b1000 << 25, 0b1110 << 25), 8),  # data processing, immediate
    (_any_of(0b0101 << 25, 0b0111 << 25), 18),  # data processing, register
    (_any_of(0b0100 << 25, 0b0111 << 25), 18),  # loads and stores, no FP
    (_any_of(0b0110 << 25, 0b0111 << 25), 12),  # of vector registers
    (_any_of(0b0111 << 25, 0b0111 << 25), 25),  # SIMD and floating point
    (_any_of(0x1E000000, 0x5F000000), 6),  # scalar floating point
    (_any_of(0b011000 << 24, 0b111000 << 24 | 1 << 26), 3),
    (_any_of(0xD9200000, 0xFF200000), 4),  # tag loads and stores
    (_any_of(0x1AC00000, 0x1FE00000), 3),  # one and two sources
    (_any_of(0, 0b1001111 << 25), 1),  # reserved
    (_any_of(0b0001 << 25, 0b1101 << 25), 1),  # unallocated
    (_any_of(0xD6000000, 0xFE000000), 1),  # branches to a register
    (_any_of(0xD61F0000, 0xFE9FFC00), 1),
    (_any_of(0xD4000000, 0xFF000000), 1),  # exceptions
    (_any_of(0xD500401F, 0xFFF8F01F), 1),  # MSR immediate, hints, barriers
    (_any_of(0xD503201F, 0xFFFFF01F), 1),
    (_any_of(0xD503301F, 0xFFFFF01F), 1),
)


def fuzz(seed: int) -> Program:
    """Return the program of random words of `seed`."""
    draw = Draw(f"encodings {seed}")
    draw.privileged = bool(draw.bits(1))
    draw.pc = slot_address(seed % SLOTS)
    tag = draw.bits(4)
    registers = tuple(_good_address(draw) | tag << 56 for _ in range(31))
    state = State(
        registers,
        sp=_good_address(draw) | tag << 56,
        pstate=0,
        tags=bytes([tag] * DATA_GRANULES),
        vectors=draw.vectors(),
    )
    chunks = tuple(_chunk(draw) for _ in range(WORDS))
    return Program(f"encodings seed {seed}", chunks, state, draw.privileged)


def _good_address(d: Draw) -> int:
    """Return an address well inside DATA."""
    return DATA + DATA_BYTES // 2 + d.signed(6) * GRANULE_BYTES


def _chunk(d: Draw) -> tuple[int, ...]:
    word = _draw_word(d)
    if not _is_load_store(word):
        return (word,)
    rn = word >> 5 & 31
    work = SCRATCH if rn == a64.SP else rn
    prepare = [*a64.mov_value(work, _good_address(d)), a64.ldg(work, work)]
    if rn == a64.SP:
        prepare.append(a64.add_imm(a64.SP, SCRATCH, 0))
    # No monitor, so that a store-exclusive fails, whichever it is.
    return (*prepare, a64.barrier(2), word)


def _draw_word(d: Draw) -> int:
    draws = [draw for draw, _ in _SPACES]
    weights = [weight for _, weight in _SPACES]
    while True:
        word = d.choices(draws, weights)[0](d) & 0xFFFFFFFF
        if not _is_compared(word) or excluded(word, privileged=d.privileged):
            continue
        return word


def _is_compared(word: int) -> bool:
    """Tell whether a word lies in one of the spaces at all."""
    op0 = word >> 25 & 15
    if op0 in {0b1000, 0b1001, 0b0101, 0b1101, 0b0111, 0b1111, 0b0001, 0b0011}:
        return True
    if op0 == 0:
        return not word >> 31
    return _is_load_store(word) or word >> 26 == 0b110101
