"""A small A64 assembler: one function per instruction form, each returns the 32-bit encoding.

Registers are numbers; 31 is SP or XZR as the instruction has it (`SP`, `ZR`). `sf` is 1 for the
64-bit form. Immediates are given in the unit of the assembly language (bytes for offsets) and
checked: a value that the encoding cannot hold raises ValueError. Where several mnemonics differ
in one field only, the form is one function and the field a parameter, with the names below.

`a64_code.Code` strings encodings together and resolves labels. Encodings: Arm ARM (DDI 0487), C4.
"""

SP, ZR, LR = 31, 31, 30

# Conditions.
EQ, NE, CS, CC, MI, PL, VS, VC, HI, LS, GE, LT, GT, LE, AL, NV = range(16)
# Shifts of the shifted-register forms.
LSL, LSR, ASR, ROR = range(4)
# Extensions of the extended-register and register-offset forms.
UXTB, UXTH, UXTW, UXTX, SXTB, SXTH, SXTW, SXTX = range(8)
# Indexing of the 9-bit-offset loads and stores, and of the tag stores.
UNSCALED, POST, UNPRIVILEGED, PRE = range(4)
OFFSET = UNPRIVILEGED  # the tag stores' value 2 means a plain signed offset
# Indexing of the pair forms.
PAIR_NO_ALLOCATE, PAIR_POST, PAIR_OFFSET, PAIR_PRE = range(4)

# (size, opc) of the loads and stores of one register.
STRB, LDRB, LDRSB_X, LDRSB_W = (0, 0), (0, 1), (0, 2), (0, 3)
STRH, LDRH, LDRSH_X, LDRSH_W = (1, 0), (1, 1), (1, 2), (1, 3)
STR_W, LDR_W, LDRSW = (2, 0), (2, 1), (2, 2)
STR_X, LDR_X, PRFM = (3, 0), (3, 1), (3, 2)

# (opc, L) of the loads and stores of a pair.
STP_W, LDP_W, LDPSW, STP_X, LDP_X = (0, 0), (0, 1), (1, 1), (2, 0), (2, 1)

# (op31, o0) of the multiplications.
MADD, MSUB, SMADDL, SMSUBL, SMULH = (0, 0), (0, 1), (1, 0), (1, 1), (2, 0)
UMADDL, UMSUBL, UMULH = (5, 0), (5, 1), (6, 0)

# Tag stores: opc.
STG, STZG, ST2G, STZ2G = range(4)

# Atomic memory operations: (o3, opc).
LDADD, LDCLR, LDEOR, LDSET = (0, 0), (0, 1), (0, 2), (0, 3)
LDSMAX, LDSMIN, LDUMAX, LDUMIN, SWP = (0, 4), (0, 5), (0, 6), (0, 7), (1, 0)

# System registers and instructions as (op0, op1, CRn, CRm, op2).
NZCV, TCO, DIT, SSBS = (3, 3, 4, 2, 0), (3, 3, 4, 2, 7), (3, 3, 4, 2, 5), (3, 3, 4, 2, 6)
FPCR, FPSR = (3, 3, 4, 4, 0), (3, 3, 4, 4, 1)
TPIDR_EL0, TPIDRRO_EL0, DCZID_EL0 = (3, 3, 13, 0, 2), (3, 3, 13, 0, 3), (3, 3, 0, 0, 7)
RGSR_EL1, GCR_EL1, TFSR_EL1, TFSRE0_EL1 = (
    (3, 0, 1, 0, 5),
    (3, 0, 1, 0, 6),
    (3, 0, 5, 6, 0),
    (3, 0, 5, 6, 1),
)
SCTLR_EL1, TTBR0_EL1, TCR_EL1 = (3, 0, 1, 0, 0), (3, 0, 2, 0, 0), (3, 0, 2, 0, 2)
MAIR_EL1, VBAR_EL1, ESR_EL1 = (3, 0, 10, 2, 0), (3, 0, 12, 0, 0), (3, 0, 5, 2, 0)
FAR_EL1, ELR_EL1, SPSR_EL1, SP_EL0 = (
    (3, 0, 6, 0, 0),
    (3, 0, 4, 0, 1),
    (3, 0, 4, 0, 0),
    (3, 0, 4, 1, 0),
)
DC_ZVA, DC_GVA, DC_GZVA = (1, 3, 7, 4, 1), (1, 3, 7, 4, 3), (1, 3, 7, 4, 4)
DC_CVAC, DC_CGVAC, DC_CGDVAC = (1, 3, 7, 10, 1), (1, 3, 7, 10, 3), (1, 3, 7, 10, 5)
DC_CVAP, DC_CGVAP, DC_CGDVAP = (1, 3, 7, 12, 1), (1, 3, 7, 12, 3), (1, 3, 7, 12, 5)
DC_CIVAC, DC_CIGVAC, DC_CIGDVAC = (1, 3, 7, 14, 1), (1, 3, 7, 14, 3), (1, 3, 7, 14, 5)
DC_CVAU, IC_IVAU = (1, 3, 7, 11, 1), (1, 3, 7, 5, 1)


def _u(value: int, width: int, low: int) -> int:
    if not 0 <= value < 1 << width:
        raise ValueError(f"{value:#x} does not fit {width} unsigned bits")
    return value << low


def _s(value: int, width: int, low: int) -> int:
    if not -(1 << (width - 1)) <= value < 1 << (width - 1):
        raise ValueError(f"{value:#x} does not fit {width} signed bits")
    return (value & ((1 << width) - 1)) << low


def _scaled(offset: int, unit: int) -> int:
    if offset % unit:
        raise ValueError(f"offset {offset:#x} is not a multiple of {unit}")
    return offset // unit


def _dn(rd: int, rn: int) -> int:
    return _u(rd, 5, 0) | _u(rn, 5, 5)


def _dnm(rd: int, rn: int, rm: int) -> int:
    return _dn(rd, rn) | _u(rm, 5, 16)


# --- data processing, immediate -----------------------------------------------------------


def adr(rd: int, offset: int) -> int:
    return 0x10000000 | (offset & 3) << 29 | _s(offset >> 2, 19, 5) | _u(rd, 5, 0)


def adrp(rd: int, pages: int) -> int:
    return 0x80000000 | adr(rd, pages)


def add_imm(rd: int, rn: int, imm: int, *, sf: int = 1, s: int = 0, shift12: int = 0) -> int:
    return 0x11000000 | sf << 31 | s << 29 | shift12 << 22 | _u(imm, 12, 10) | _dn(rd, rn)


def sub_imm(rd: int, rn: int, imm: int, *, sf: int = 1, s: int = 0, shift12: int = 0) -> int:
    return 1 << 30 | add_imm(rd, rn, imm, sf=sf, s=s, shift12=shift12)


def addg(rd: int, rn: int, offset: int, tag_offset: int) -> int:
    return 0x91800000 | _u(_scaled(offset, 16), 6, 16) | _u(tag_offset, 4, 10) | _dn(rd, rn)


def subg(rd: int, rn: int, offset: int, tag_offset: int) -> int:
    return 1 << 30 | addg(rd, rn, offset, tag_offset)


def logical_imm(opc: int, rd: int, rn: int, n_immr_imms: tuple[int, int, int], sf: int = 1) -> int:
    """AND 0, ORR 1, EOR 2, ANDS 3 with the raw fields N, immr, imms."""
    n, immr, imms = n_immr_imms
    base = 0x12000000 | sf << 31 | _u(opc, 2, 29)
    return base | n << 22 | _u(immr, 6, 16) | _u(imms, 6, 10) | _dn(rd, rn)


def _move_wide(opc: int, rd: int, imm16: int, shift: int, sf: int) -> int:
    base = 0x12800000 | sf << 31 | opc << 29
    return base | _u(_scaled(shift, 16), 2, 21) | _u(imm16, 16, 5) | _u(rd, 5, 0)


def movn(rd: int, imm16: int, shift: int = 0, sf: int = 1) -> int:
    return _move_wide(0, rd, imm16, shift, sf)


def movz(rd: int, imm16: int, shift: int = 0, sf: int = 1) -> int:
    return _move_wide(2, rd, imm16, shift, sf)


def movk(rd: int, imm16: int, shift: int = 0, sf: int = 1) -> int:
    return _move_wide(3, rd, imm16, shift, sf)


def mov_value(rd: int, value: int) -> list[int]:
    """MOVZ and as many MOVK as the 64-bit value needs."""
    parts = [(value >> shift & 0xFFFF, shift) for shift in (0, 16, 32, 48)]
    used = [part for part in parts if part[0]] or parts[:1]
    return [movz(rd, *used[0]), *(movk(rd, *part) for part in used[1:])]


def bitfield(opc: int, rd: int, rn: int, immr: int, imms: int, sf: int = 1) -> int:
    """SBFM 0, BFM 1, UBFM 2."""
    base = 0x13000000 | sf << 31 | _u(opc, 2, 29) | sf << 22
    return base | _u(immr, 6, 16) | _u(imms, 6, 10) | _dn(rd, rn)


def extr(rd: int, rn: int, rm: int, lsb: int, sf: int = 1) -> int:
    return 0x13800000 | sf << 31 | sf << 22 | _u(lsb, 6, 10) | _dnm(rd, rn, rm)


# --- data processing, register ------------------------------------------------------------


def logical_reg(
    opc: int,
    rd: int,
    rn: int,
    rm: int,
    *,
    invert: int = 0,
    shift: int = 0,
    by: int = 0,
    sf: int = 1,
) -> int:
    """AND 0, ORR 1, EOR 2, ANDS 3; with `invert` BIC, ORN, EON, BICS."""
    base = 0x0A000000 | sf << 31 | _u(opc, 2, 29) | _u(shift, 2, 22) | invert << 21
    return base | _u(by, 6, 10) | _dnm(rd, rn, rm)


def mov(rd: int, rm: int) -> int:
    return logical_reg(1, rd, ZR, rm)


def add_reg(
    rd: int, rn: int, rm: int, *, sub: int = 0, s: int = 0, shift: int = 0, by: int = 0, sf: int = 1
) -> int:
    base = 0x0B000000 | sf << 31 | sub << 30 | s << 29 | _u(shift, 2, 22)
    return base | _u(by, 6, 10) | _dnm(rd, rn, rm)


def add_ext(
    rd: int,
    rn: int,
    rm: int,
    *,
    sub: int = 0,
    s: int = 0,
    option: int = UXTX,
    by: int = 0,
    sf: int = 1,
) -> int:
    base = 0x0B200000 | sf << 31 | sub << 30 | s << 29 | _u(option, 3, 13)
    return base | _u(by, 3, 10) | _dnm(rd, rn, rm)


def adc(rd: int, rn: int, rm: int, *, sub: int = 0, s: int = 0, sf: int = 1) -> int:
    return 0x1A000000 | sf << 31 | sub << 30 | s << 29 | _dnm(rd, rn, rm)


def rmif(rn: int, shift: int, mask: int) -> int:
    return 0xBA000400 | _u(shift, 6, 15) | _u(rn, 5, 5) | _u(mask, 4, 0)


def setf(rn: int, sixteen: int) -> int:
    return 0x3A00080D | _u(sixteen, 1, 14) | _u(rn, 5, 5)


def ccmp(rn: int, rm: int, nzcv: int, cond: int, *, sub: int = 1, imm: int = 0, sf: int = 1) -> int:
    """CCMP, or CCMN with sub=0; `rm` is a 5-bit immediate if `imm`."""
    base = 0x3A400000 | sf << 31 | sub << 30 | imm << 11
    return base | _u(rm, 5, 16) | _u(cond, 4, 12) | _u(rn, 5, 5) | _u(nzcv, 4, 0)


def csel(rd: int, rn: int, rm: int, cond: int, *, op: int = 0, op2: int = 0, sf: int = 1) -> int:
    """(op, op2): CSEL 0 0, CSINC 0 1, CSINV 1 0, CSNEG 1 1."""
    return 0x1A800000 | sf << 31 | op << 30 | _u(cond, 4, 12) | op2 << 10 | _dnm(rd, rn, rm)


def multiply(kind: tuple[int, int], rd: int, rn: int, rm: int, ra: int = ZR, sf: int = 1) -> int:
    base = 0x1B000000 | sf << 31 | _u(kind[0], 3, 21) | kind[1] << 15
    return base | _u(ra, 5, 10) | _dnm(rd, rn, rm)


def two_source(opcode: int, rd: int, rn: int, rm: int, sf: int = 1) -> int:
    """UDIV 2, SDIV 3, LSLV 8, LSRV 9, ASRV 10, RORV 11, CRC32B..X 16..19, CRC32CB..CX 20..23."""
    return 0x1AC00000 | sf << 31 | _u(opcode, 6, 10) | _dnm(rd, rn, rm)


def crc32(rd: int, rn: int, rm: int, size: int, c: int = 0) -> int:
    return two_source(16 | c << 2 | _u(size, 2, 0), rd, rn, rm, sf=int(size == 3))


def one_source(opcode: int, rd: int, rn: int, sf: int = 1) -> int:
    """RBIT 0, REV16 1, REV32 (REV of a W) 2, REV 3, CLZ 4, CLS 5."""
    return 0x5AC00000 | sf << 31 | _u(opcode, 6, 10) | _dn(rd, rn)


# --- branches -----------------------------------------------------------------------------


def b(offset: int) -> int:
    return 0x14000000 | _s(_scaled(offset, 4), 26, 0)


def bl(offset: int) -> int:
    return 1 << 31 | b(offset)


def b_cond(cond: int, offset: int) -> int:
    return 0x54000000 | _s(_scaled(offset, 4), 19, 5) | _u(cond, 4, 0)


def cbz(rt: int, offset: int, *, nonzero: int = 0, sf: int = 1) -> int:
    return 0x34000000 | sf << 31 | nonzero << 24 | _s(_scaled(offset, 4), 19, 5) | _u(rt, 5, 0)


def tbz(rt: int, bit: int, offset: int, *, nonzero: int = 0) -> int:
    number = _u(bit >> 5, 1, 31) | _u(bit & 31, 5, 19)
    return 0x36000000 | number | nonzero << 24 | _s(_scaled(offset, 4), 14, 5) | _u(rt, 5, 0)


def br(rn: int) -> int:
    return 0xD61F0000 | _u(rn, 5, 5)


def blr(rn: int) -> int:
    return 0xD63F0000 | _u(rn, 5, 5)


def ret(rn: int = LR) -> int:
    return 0xD65F0000 | _u(rn, 5, 5)


def eret() -> int:
    return 0xD69F03E0


# --- exceptions and system ----------------------------------------------------------------


def udf(imm16: int = 0) -> int:
    return _u(imm16, 16, 0)


def svc(imm16: int = 0) -> int:
    return 0xD4000001 | _u(imm16, 16, 5)


def hvc(imm16: int = 0) -> int:
    return 0xD4000002 | _u(imm16, 16, 5)


def smc(imm16: int = 0) -> int:
    return 0xD4000003 | _u(imm16, 16, 5)


def brk(imm16: int = 0) -> int:
    return 0xD4200000 | _u(imm16, 16, 5)


def hint(number: int) -> int:
    """NOP 0, YIELD 1, WFE 2, WFI 3, SEV 4, SEVL 5, CSDB 20, BTI 32..38."""
    return 0xD503201F | _u(number, 7, 5)


def barrier(op2: int, crm: int = 15) -> int:
    """CLREX 2, DSB 4, DMB 5, ISB 6, SB 7 (with crm 0)."""
    return 0xD503301F | _u(crm, 4, 8) | _u(op2, 3, 5)


def msr_imm(op1: int, op2: int, imm4: int) -> int:
    """(op1, op2): CFINV 0 0, XAFLAG 0 1, AXFLAG 0 2, SSBS 3 1, DIT 3 2, TCO 3 4."""
    return 0xD500401F | _u(op1, 3, 16) | _u(imm4, 4, 8) | _u(op2, 3, 5)


def msr_tco(value: int) -> int:
    return msr_imm(3, 4, value)


def _system(read: int, encoding: tuple[int, int, int, int, int], rt: int) -> int:
    op0, op1, crn, crm, op2 = encoding
    fields = _u(op0, 2, 19) | _u(op1, 3, 16) | _u(crn, 4, 12) | _u(crm, 4, 8) | _u(op2, 3, 5)
    return 0xD5000000 | read << 21 | fields | _u(rt, 5, 0)


def msr(register: tuple[int, int, int, int, int], rt: int) -> int:
    return _system(0, register, rt)


def mrs(rt: int, register: tuple[int, int, int, int, int]) -> int:
    return _system(1, register, rt)


def sys(operation: tuple[int, int, int, int, int], rt: int = ZR) -> int:
    """SYS, with the aliases DC, IC, AT and TLBI."""
    return _system(0, operation, rt)


# --- loads and stores ---------------------------------------------------------------------

SizeOpc = tuple[int, int]


def _size_opc(kind: SizeOpc) -> int:
    return 0x38000000 | _u(kind[0], 2, 30) | _u(kind[1], 2, 22)


def ldst(kind: SizeOpc, rt: int, rn: int, offset: int = 0) -> int:
    """[Xn, #offset], unsigned and scaled."""
    return 0x01000000 | _size_opc(kind) | _u(_scaled(offset, 1 << kind[0]), 12, 10) | _dn(rt, rn)


def ldst9(kind: SizeOpc, mode: int, rt: int, rn: int, offset: int) -> int:
    """9-bit signed offset: UNSCALED, POST, UNPRIVILEGED or PRE."""
    return _size_opc(kind) | _s(offset, 9, 12) | _u(mode, 2, 10) | _dn(rt, rn)


def ldst_reg(
    kind: SizeOpc, rt: int, rn: int, rm: int, *, option: int = UXTX, scale: int = 0
) -> int:
    return 0x00200800 | _size_opc(kind) | _u(option, 3, 13) | scale << 12 | _dnm(rt, rn, rm)


def ldr(rt: int, rn: int, offset: int = 0) -> int:
    return ldst(LDR_X, rt, rn, offset)


def str_(rt: int, rn: int, offset: int = 0) -> int:
    return ldst(STR_X, rt, rn, offset)


def ldr_literal(opc: int, rt: int, offset: int) -> int:
    """LDR W 0, LDR X 1, LDRSW 2, PRFM 3."""
    return 0x18000000 | _u(opc, 2, 30) | _s(_scaled(offset, 4), 19, 5) | _u(rt, 5, 0)


def pair(kind: tuple[int, int], mode: int, rt: int, rt2: int, rn: int, offset: int = 0) -> int:
    """Modes PAIR_*."""
    unit = 8 if kind[0] == 2 else 4
    base = 0x28000000 | _u(kind[0], 2, 30) | _u(mode, 2, 23) | kind[1] << 22
    return base | _s(_scaled(offset, unit), 7, 15) | _u(rt2, 5, 10) | _dn(rt, rn)


def exclusive_class(
    size: int, o2_l_o1_o0: tuple[int, int, int, int], rs: int, rt2: int, rt: int, rn: int
) -> int:
    """LDXR, STXR, LDXP, STXP, LDAR, STLR, CAS, CASP and their relatives, by raw fields."""
    o2, load, o1, o0 = o2_l_o1_o0
    base = 0x08000000 | _u(size, 2, 30) | o2 << 23 | load << 22 | o1 << 21 | o0 << 15
    return base | _u(rs, 5, 16) | _u(rt2, 5, 10) | _dn(rt, rn)


def ldxr(size: int, rt: int, rn: int, acquire: int = 0) -> int:
    return exclusive_class(size, (0, 1, 0, acquire), 31, 31, rt, rn)


def stxr(size: int, rs: int, rt: int, rn: int, release: int = 0) -> int:
    return exclusive_class(size, (0, 0, 0, release), rs, 31, rt, rn)


def ldxp(size: int, rt: int, rt2: int, rn: int, acquire: int = 0) -> int:
    return exclusive_class(size, (0, 1, 1, acquire), 31, rt2, rt, rn)


def stxp(size: int, rs: int, rt: int, rt2: int, rn: int, release: int = 0) -> int:
    return exclusive_class(size, (0, 0, 1, release), rs, rt2, rt, rn)


def ldar(size: int, rt: int, rn: int, limited: int = 0) -> int:
    """LDAR, or LDLAR if `limited`."""
    return exclusive_class(size, (1, 1, 0, 1 - limited), 31, 31, rt, rn)


def stlr(size: int, rt: int, rn: int, limited: int = 0) -> int:
    """STLR, or STLLR if `limited`."""
    return exclusive_class(size, (1, 0, 0, 1 - limited), 31, 31, rt, rn)


def cas(size: int, rs: int, rt: int, rn: int, acquire: int = 0, release: int = 0) -> int:
    return exclusive_class(size, (1, acquire, 1, release), rs, 31, rt, rn)


def casp(sf: int, rs: int, rt: int, rn: int, acquire: int = 0, release: int = 0) -> int:
    return exclusive_class(sf, (0, acquire, 1, release), rs, 31, rt, rn)


def atomic(
    size: int, operation: tuple[int, int], rs: int, rt: int, rn: int, ordering: int = 0
) -> int:
    """LDADD and its family, SWP; `ordering` is the A and R bits."""
    base = 0x38200000 | _u(size, 2, 30) | _u(ordering, 2, 22)
    return base | operation[0] << 15 | operation[1] << 12 | _dnm(rt, rn, rs)


def ldapr(size: int, rt: int, rn: int) -> int:
    return atomic(size, (1, 4), 31, rt, rn, ordering=2)


def ldapur(kind: SizeOpc, rt: int, rn: int, offset: int) -> int:
    """STLUR and LDAPUR, with `kind` as for ldst9."""
    return 0x19000000 | _u(kind[0], 2, 30) | _u(kind[1], 2, 22) | _s(offset, 9, 12) | _dn(rt, rn)


# --- MTE ----------------------------------------------------------------------------------


def irg(rd: int, rn: int, rm: int = ZR) -> int:
    return two_source(4, rd, rn, rm)


def gmi(rd: int, rn: int, rm: int) -> int:
    return two_source(5, rd, rn, rm)


def subp(rd: int, rn: int, rm: int, s: int = 0) -> int:
    return s << 29 | two_source(0, rd, rn, rm)


def ldg(rt: int, rn: int, offset: int = 0) -> int:
    return 0xD9600000 | _s(_scaled(offset, 16), 9, 12) | _dn(rt, rn)


def tag_store(opc: int, mode: int, rt: int, rn: int, offset: int = 0) -> int:
    """STG, STZG, ST2G or STZ2G; mode OFFSET, PRE or POST."""
    base = 0xD9200000 | _u(opc, 2, 22) | _u(mode, 2, 10)
    return base | _s(_scaled(offset, 16), 9, 12) | _dn(rt, rn)


def stg(rt: int, rn: int, offset: int = 0) -> int:
    return tag_store(STG, OFFSET, rt, rn, offset)


def stgp(mode: int, rt: int, rt2: int, rn: int, offset: int = 0) -> int:
    """Modes PAIR_OFFSET, PAIR_PRE, PAIR_POST."""
    base = 0x68000000 | _u(mode, 2, 23)
    return base | _s(_scaled(offset, 16), 7, 15) | _u(rt2, 5, 10) | _dn(rt, rn)


def ldgm(rt: int, rn: int) -> int:
    return 0xD9E00000 | _dn(rt, rn)


def stgm(rt: int, rn: int) -> int:
    return 0xD9A00000 | _dn(rt, rn)


def stzgm(rt: int, rn: int) -> int:
    return 0xD9200000 | _dn(rt, rn)
