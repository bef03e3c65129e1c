"""The assembler against capstone, which the package uses to show instructions."""

from collections.abc import Callable

import pytest

from tagalong.disassembly import disassemble
from tests.support import a64
from tests.support.a64_code import Code
from tests.support.cases import check_each

FORMS = [
    (a64.adr(1, -3), "adr x1, #0xfffffffffffffffd"),
    (a64.adrp(2, 5), "adrp x2, #0x5000"),
    (a64.add_imm(1, a64.SP, 0x123), "add x1, sp, #0x123"),
    (a64.add_imm(1, 2, 3, sf=0, s=1, shift12=1), "adds w1, w2, #3, lsl #12"),
    (a64.sub_imm(a64.SP, a64.SP, 16), "sub sp, sp, #0x10"),
    (a64.sub_imm(a64.ZR, 4, 7, s=1), "cmp x4, #7"),
    (a64.addg(1, a64.SP, 0x3F0, 15), "addg x1, sp, #0x3f0, #0xf"),
    (a64.subg(3, 4, 16, 1), "subg x3, x4, #0x10, #1"),
    (a64.logical_imm(0, 1, 2, (1, 60, 59)), "and x1, x2, #0xfffffffffffffff0"),
    (a64.logical_imm(1, 1, 2, (0, 0, 0x3C), 0), "orr w1, w2, #0x55555555"),
    (a64.logical_imm(2, a64.SP, 2, (1, 0, 55)), "eor sp, x2, #0xffffffffffffff"),
    (a64.logical_imm(3, 1, 2, (1, 0, 0)), "ands x1, x2, #1"),
    (a64.movn(1, 0x1234, 16), "mov x1, #-0x12340001"),
    (a64.movz(1, 0x1234, 48), "mov x1, #0x1234000000000000"),
    (a64.movk(1, 0xFFFF, 32), "movk x1, #0xffff, lsl #32"),
    (a64.movz(7, 1, sf=0), "mov w7, #1"),
    (a64.bitfield(0, 1, 2, 3, 20), "sbfx x1, x2, #3, #0x12"),
    (a64.bitfield(1, 1, 2, 60, 4), "bfi x1, x2, #4, #5"),
    (a64.bitfield(2, 1, 2, 8, 7), "lsl x1, x2, #0x38"),
    (a64.bitfield(2, 1, 2, 3, 20, sf=0), "ubfx w1, w2, #3, #0x12"),
    (a64.extr(1, 2, 3, 13), "extr x1, x2, x3, #0xd"),
    (a64.extr(1, 2, 3, 13, sf=0), "extr w1, w2, w3, #0xd"),
    (a64.logical_reg(0, 1, 2, 3, shift=a64.LSR, by=5), "and x1, x2, x3, lsr #5"),
    (a64.logical_reg(1, 1, 2, 3, invert=1), "orn x1, x2, x3"),
    (a64.logical_reg(2, 1, 2, 3, shift=a64.ROR, by=7, sf=0), "eor w1, w2, w3, ror #7"),
    (a64.logical_reg(3, 1, 2, 3, invert=1, shift=a64.ASR, by=63), "bics x1, x2, x3, asr #63"),
    (a64.mov(1, 2), "mov x1, x2"),
    (a64.add_reg(1, 2, 3), "add x1, x2, x3"),
    (a64.add_reg(1, 2, 3, sub=1, s=1, shift=a64.ASR, by=4, sf=0), "subs w1, w2, w3, asr #4"),
    (a64.add_ext(a64.SP, 2, 3, option=a64.SXTW, by=3), "add sp, x2, w3, sxtw #3"),
    (a64.add_ext(1, a64.SP, 3, sub=1, s=1, option=a64.UXTB, sf=0), "subs w1, wsp, w3, uxtb"),
    (a64.adc(1, 2, 3), "adc x1, x2, x3"),
    (a64.adc(1, 2, 3, sub=1, s=1, sf=0), "sbcs w1, w2, w3"),
    (a64.rmif(1, 63, 5), "rmif x1, #0x3f, #5"),
    (a64.setf(3, 0), "setf8 w3"),
    (a64.setf(3, 1), "setf16 w3"),
    (a64.ccmp(1, 2, 5, a64.GE), "ccmp x1, x2, #5, ge"),
    (a64.ccmp(1, 31, 5, a64.NE, sub=0, imm=1, sf=0), "ccmn w1, #0x1f, #5, ne"),
    (a64.csel(1, 2, 3, a64.HI), "csel x1, x2, x3, hi"),
    (a64.csel(1, 2, 3, a64.LS, op2=1), "csinc x1, x2, x3, ls"),
    (a64.csel(1, 2, 3, a64.MI, op=1), "csinv x1, x2, x3, mi"),
    (a64.csel(1, 2, 3, a64.PL, op=1, op2=1, sf=0), "csneg w1, w2, w3, pl"),
    (a64.multiply(a64.MADD, 1, 2, 3, 4), "madd x1, x2, x3, x4"),
    (a64.multiply(a64.MSUB, 1, 2, 3, 4, 0), "msub w1, w2, w3, w4"),
    (a64.multiply(a64.SMADDL, 1, 2, 3, 4), "smaddl x1, w2, w3, x4"),
    (a64.multiply(a64.SMSUBL, 1, 2, 3, 4), "smsubl x1, w2, w3, x4"),
    (a64.multiply(a64.SMULH, 1, 2, 3), "smulh x1, x2, x3"),
    (a64.multiply(a64.UMADDL, 1, 2, 3, 4), "umaddl x1, w2, w3, x4"),
    (a64.multiply(a64.UMSUBL, 1, 2, 3, 4), "umsubl x1, w2, w3, x4"),
    (a64.multiply(a64.UMULH, 1, 2, 3), "umulh x1, x2, x3"),
    (a64.two_source(2, 1, 2, 3), "udiv x1, x2, x3"),
    (a64.two_source(3, 1, 2, 3, 0), "sdiv w1, w2, w3"),
    (a64.two_source(8, 1, 2, 3), "lsl x1, x2, x3"),
    (a64.two_source(9, 1, 2, 3), "lsr x1, x2, x3"),
    (a64.two_source(10, 1, 2, 3, 0), "asr w1, w2, w3"),
    (a64.two_source(11, 1, 2, 3), "ror x1, x2, x3"),
    (a64.crc32(1, 2, 3, 0), "crc32b w1, w2, w3"),
    (a64.crc32(1, 2, 3, 3), "crc32x w1, w2, x3"),
    (a64.crc32(1, 2, 3, 1, c=1), "crc32ch w1, w2, w3"),
    (a64.crc32(1, 2, 3, 2, c=1), "crc32cw w1, w2, w3"),
    (a64.one_source(0, 1, 2), "rbit x1, x2"),
    (a64.one_source(1, 1, 2), "rev16 x1, x2"),
    (a64.one_source(2, 1, 2, 0), "rev w1, w2"),
    (a64.one_source(2, 1, 2), "rev32 x1, x2"),
    (a64.one_source(3, 1, 2), "rev x1, x2"),
    (a64.one_source(4, 1, 2, 0), "clz w1, w2"),
    (a64.one_source(5, 1, 2), "cls x1, x2"),
    (a64.b(-8), "b #0xfffffffffffffff8"),
    (a64.bl(0x100), "bl #0x100"),
    (a64.b_cond(a64.LT, 0x20), "b.lt #0x20"),
    (a64.cbz(1, 8, sf=0), "cbz w1, #8"),
    (a64.cbz(1, -4, nonzero=1), "cbnz x1, #0xfffffffffffffffc"),
    (a64.tbz(1, 45, 8), "tbz x1, #0x2d, #8"),
    (a64.tbz(1, 3, -8, nonzero=1), "tbnz w1, #3, #0xfffffffffffffff8"),
    (a64.br(1), "br x1"),
    (a64.blr(2), "blr x2"),
    (a64.ret(), "ret"),
    (a64.ret(5), "ret x5"),
    (a64.eret(), "eret"),
    (a64.udf(7), "udf #7"),
    (a64.svc(1), "svc #1"),
    (a64.hvc(2), "hvc #2"),
    (a64.smc(3), "smc #3"),
    (a64.brk(4), "brk #4"),
    (a64.hint(0), "nop"),
    (a64.hint(3), "wfi"),
    (a64.hint(20), "csdb"),
    (a64.barrier(2), "clrex"),
    (a64.barrier(4, 11), "dsb ish"),
    (a64.barrier(5), "dmb sy"),
    (a64.barrier(6), "isb"),
    (a64.barrier(7, 0), "sb"),
    (a64.msr_imm(0, 0, 0), "cfinv"),
    (a64.msr_imm(0, 2, 0), "axflag"),
    (a64.msr_imm(3, 6, 2), "msr daifset, #2"),
    (a64.msr_tco(1), "msr tco, #1"),
    (a64.msr(a64.TCO, 1), "msr tco, x1"),
    (a64.mrs(1, a64.NZCV), "mrs x1, nzcv"),
    (a64.mrs(2, a64.RGSR_EL1), "mrs x2, rgsr_el1"),
    (a64.msr(a64.GCR_EL1, 3), "msr gcr_el1, x3"),
    (a64.mrs(2, a64.TFSR_EL1), "mrs x2, tfsr_el1"),
    (a64.msr(a64.TFSRE0_EL1, 3), "msr tfsre0_el1, x3"),
    (a64.mrs(4, a64.TPIDR_EL0), "mrs x4, tpidr_el0"),
    (a64.mrs(4, a64.TPIDRRO_EL0), "mrs x4, tpidrro_el0"),
    (a64.mrs(4, a64.DCZID_EL0), "mrs x4, dczid_el0"),
    (a64.mrs(4, a64.DIT), "mrs x4, dit"),
    (a64.mrs(4, a64.SSBS), "mrs x4, ssbs"),
    (a64.msr(a64.SCTLR_EL1, 1), "msr sctlr_el1, x1"),
    (a64.msr(a64.TTBR0_EL1, 1), "msr ttbr0_el1, x1"),
    (a64.msr(a64.TCR_EL1, 1), "msr tcr_el1, x1"),
    (a64.msr(a64.MAIR_EL1, 1), "msr mair_el1, x1"),
    (a64.msr(a64.VBAR_EL1, 1), "msr vbar_el1, x1"),
    (a64.mrs(1, a64.ESR_EL1), "mrs x1, esr_el1"),
    (a64.mrs(1, a64.FAR_EL1), "mrs x1, far_el1"),
    (a64.mrs(1, a64.ELR_EL1), "mrs x1, elr_el1"),
    (a64.mrs(1, a64.SPSR_EL1), "mrs x1, spsr_el1"),
    (a64.msr(a64.SP_EL0, 1), "msr sp_el0, x1"),
    (a64.sys(a64.DC_ZVA, 1), "dc zva, x1"),
    (a64.sys(a64.DC_GVA, 2), "dc gva, x2"),
    (a64.sys(a64.DC_GZVA, 3), "dc gzva, x3"),
    (a64.sys(a64.DC_CVAC, 4), "dc cvac, x4"),
    (a64.sys(a64.DC_CGVAC, 4), "dc cgvac, x4"),
    (a64.sys(a64.DC_CGDVAC, 4), "dc cgdvac, x4"),
    (a64.sys(a64.DC_CVAP, 4), "dc cvap, x4"),
    (a64.sys(a64.DC_CGVAP, 4), "dc cgvap, x4"),
    (a64.sys(a64.DC_CGDVAP, 4), "dc cgdvap, x4"),
    (a64.sys(a64.DC_CIVAC, 4), "dc civac, x4"),
    (a64.sys(a64.DC_CIGVAC, 4), "dc cigvac, x4"),
    (a64.sys(a64.DC_CIGDVAC, 4), "dc cigdvac, x4"),
    (a64.sys(a64.DC_CVAU, 4), "dc cvau, x4"),
    (a64.sys(a64.IC_IVAU, 4), "ic ivau, x4"),
    (a64.ldst(a64.STRB, 1, 2, 4095), "strb w1, [x2, #0xfff]"),
    (a64.ldst(a64.LDRB, 1, a64.SP), "ldrb w1, [sp]"),
    (a64.ldst(a64.LDRSB_X, 1, 2, 1), "ldrsb x1, [x2, #1]"),
    (a64.ldst(a64.LDRSB_W, 1, 2, 1), "ldrsb w1, [x2, #1]"),
    (a64.ldst(a64.STRH, 1, 2, 2), "strh w1, [x2, #2]"),
    (a64.ldst(a64.LDRH, 1, 2, 2), "ldrh w1, [x2, #2]"),
    (a64.ldst(a64.LDRSH_X, 1, 2, 2), "ldrsh x1, [x2, #2]"),
    (a64.ldst(a64.LDRSH_W, 1, 2, 2), "ldrsh w1, [x2, #2]"),
    (a64.ldst(a64.STR_W, 1, 2, 4), "str w1, [x2, #4]"),
    (a64.ldst(a64.LDR_W, 1, 2, 4), "ldr w1, [x2, #4]"),
    (a64.ldst(a64.LDRSW, 1, 2, 4), "ldrsw x1, [x2, #4]"),
    (a64.ldst(a64.PRFM, 0, 2, 8), "prfm pldl1keep, [x2, #8]"),
    (a64.ldr(1, 2, 32760), "ldr x1, [x2, #0x7ff8]"),
    (a64.str_(1, a64.SP, 8), "str x1, [sp, #8]"),
    (a64.ldst9(a64.LDR_X, a64.UNSCALED, 1, 2, -256), "ldur x1, [x2, #-0x100]"),
    (a64.ldst9(a64.LDR_W, a64.POST, 1, 2, 255), "ldr w1, [x2], #0xff"),
    (a64.ldst9(a64.STR_X, a64.PRE, 1, 2, -8), "str x1, [x2, #-8]!"),
    (a64.ldst9(a64.LDRSB_X, a64.UNPRIVILEGED, 1, 2, -1), "ldtrsb x1, [x2, #-1]"),
    (a64.ldst_reg(a64.LDR_X, 1, 2, 3, scale=1), "ldr x1, [x2, x3, lsl #3]"),
    (a64.ldst_reg(a64.STRH, 1, 2, 3, option=a64.SXTW, scale=1), "strh w1, [x2, w3, sxtw #1]"),
    (a64.ldst_reg(a64.LDRB, 1, 2, 3, option=a64.UXTW), "ldrb w1, [x2, w3, uxtw]"),
    (a64.ldr_literal(0, 1, -4), "ldr w1, #0xfffffffffffffffc"),
    (a64.ldr_literal(1, 1, 8), "ldr x1, #8"),
    (a64.ldr_literal(2, 1, 8), "ldrsw x1, #8"),
    (a64.pair(a64.STP_W, a64.PAIR_OFFSET, 1, 2, 3, -4), "stp w1, w2, [x3, #-4]"),
    (a64.pair(a64.LDP_W, a64.PAIR_PRE, 1, 2, 3, 8), "ldp w1, w2, [x3, #8]!"),
    (a64.pair(a64.LDPSW, a64.PAIR_POST, 1, 2, 3, 252), "ldpsw x1, x2, [x3], #0xfc"),
    (a64.pair(a64.STP_X, a64.PAIR_NO_ALLOCATE, 1, 2, a64.SP, -512), "stnp x1, x2, [sp, #-0x200]"),
    (a64.pair(a64.LDP_X, a64.PAIR_OFFSET, 1, 2, 3, 504), "ldp x1, x2, [x3, #0x1f8]"),
    (a64.ldxr(0, 1, 2), "ldxrb w1, [x2]"),
    (a64.ldxr(3, 1, 2, acquire=1), "ldaxr x1, [x2]"),
    (a64.stxr(1, 1, 2, 3), "stxrh w1, w2, [x3]"),
    (a64.stxr(2, 1, 2, 3, release=1), "stlxr w1, w2, [x3]"),
    (a64.ldxp(3, 1, 2, 3), "ldxp x1, x2, [x3]"),
    (a64.ldxp(2, 1, 2, 3, acquire=1), "ldaxp w1, w2, [x3]"),
    (a64.stxp(3, 1, 2, 3, 4), "stxp w1, x2, x3, [x4]"),
    (a64.stxp(2, 1, 2, 3, 4, release=1), "stlxp w1, w2, w3, [x4]"),
    (a64.ldar(3, 1, 2), "ldar x1, [x2]"),
    (a64.ldar(0, 1, 2, limited=1), "ldlarb w1, [x2]"),
    (a64.stlr(2, 1, 2), "stlr w1, [x2]"),
    (a64.stlr(1, 1, 2, limited=1), "stllrh w1, [x2]"),
    (a64.cas(3, 1, 2, 3), "cas x1, x2, [x3]"),
    (a64.cas(0, 1, 2, 3, acquire=1), "casab w1, w2, [x3]"),
    (a64.cas(2, 1, 2, 3, release=1), "casl w1, w2, [x3]"),
    (a64.casp(1, 2, 4, 6), "casp x2, x3, x4, x5, [x6]"),
    (a64.casp(0, 2, 4, 6, acquire=1, release=1), "caspal w2, w3, w4, w5, [x6]"),
    (a64.atomic(3, a64.LDADD, 1, 2, 3), "ldadd x1, x2, [x3]"),
    (a64.atomic(0, a64.LDCLR, 1, 2, 3, ordering=2), "ldclrab w1, w2, [x3]"),
    (a64.atomic(1, a64.LDEOR, 1, 2, 3, ordering=1), "ldeorlh w1, w2, [x3]"),
    (a64.atomic(2, a64.LDSET, 1, 2, 3, ordering=3), "ldsetal w1, w2, [x3]"),
    (a64.atomic(3, a64.LDSMAX, 1, 2, 3), "ldsmax x1, x2, [x3]"),
    (a64.atomic(3, a64.LDSMIN, 1, 2, 3), "ldsmin x1, x2, [x3]"),
    (a64.atomic(3, a64.LDUMAX, 1, 2, 3), "ldumax x1, x2, [x3]"),
    (a64.atomic(3, a64.LDUMIN, 1, 2, 3), "ldumin x1, x2, [x3]"),
    (a64.atomic(2, a64.SWP, 1, 2, a64.SP), "swp w1, w2, [sp]"),
    (a64.ldapr(3, 1, 2), "ldapr x1, [x2]"),
    (a64.ldapr(0, 1, 2), "ldaprb w1, [x2]"),
    (a64.ldapur(a64.STRB, 1, 2, -1), "stlurb w1, [x2, #-1]"),
    (a64.ldapur(a64.LDR_X, 1, 2, 255), "ldapur x1, [x2, #0xff]"),
    (a64.ldapur(a64.LDRSW, 1, 2, 4), "ldapursw x1, [x2, #4]"),
    (a64.irg(1, a64.SP, 3), "irg x1, sp, x3"),
    (a64.irg(a64.SP, 2), "irg sp, x2"),
    (a64.gmi(1, 2, 3), "gmi x1, x2, x3"),
    (a64.subp(1, a64.SP, 3), "subp x1, sp, x3"),
    (a64.subp(1, 2, 3, s=1), "subps x1, x2, x3"),
    (a64.ldg(1, 2, -4096), "ldg x1, [x2, #-0x1000]"),
    (a64.stg(1, 2, 16), "stg x1, [x2, #0x10]"),
    (a64.tag_store(a64.STG, a64.PRE, a64.SP, 2, 32), "stg sp, [x2, #0x20]!"),
    (a64.tag_store(a64.STZG, a64.POST, 1, a64.SP, -16), "stzg x1, [sp], #-0x10"),
    (a64.tag_store(a64.ST2G, a64.OFFSET, 1, 2, 4080), "st2g x1, [x2, #0xff0]"),
    (a64.tag_store(a64.STZ2G, a64.PRE, 1, 2, 0), "stz2g x1, [x2, #0]!"),
    (a64.ldgm(1, 2), "ldgm x1, [x2]"),
    (a64.stgm(1, 2), "stgm x1, [x2]"),
    (a64.stzgm(1, 2), "stzgm x1, [x2]"),
]


def test_form_disassembled_reads_as_meant() -> None:
    check_each(FORMS, check_form, lambda form: form[1])


def check_form(form: tuple[int, str]) -> None:
    word, text = form
    assert disassemble(word, 0) == text


@pytest.mark.parametrize(
    ("word", "encoding"),
    [
        (a64.stgp(a64.PAIR_OFFSET, 1, 2, 3, -1024), 0x69200861),
        (a64.stgp(a64.PAIR_PRE, 1, 2, 3, 16), 0x69808861),
        (a64.stgp(a64.PAIR_POST, 1, 2, a64.SP, 1008), 0x689F8BE1),
    ],
)
def test_stgp_unknown_to_capstone_has_binutils_encoding(word: int, encoding: int) -> None:
    assert word == encoding


def test_mov_value_with_holes_uses_only_the_parts_needed() -> None:
    words = a64.mov_value(3, 0x0500_0000_4030_0000)

    assert [disassemble(word, 0) for word in words] == [
        "mov x3, #0x40300000",
        "movk x3, #0x500, lsl #48",
    ]


def test_mov_value_of_zero_is_one_instruction() -> None:
    assert [disassemble(word, 0) for word in a64.mov_value(3, 0)] == ["mov x3, #0"]


@pytest.mark.parametrize(
    ("assemble", "message"),
    [
        (lambda: a64.ldr(0, 1, 4), "offset 0x4 is not a multiple of 8"),
        (lambda: a64.stg(0, 1, 4096), "0x100 does not fit 9 signed bits"),
        (lambda: a64.add_imm(32, 1, 0), "0x20 does not fit 5 unsigned bits"),
        (lambda: a64.b(1 << 27), "0x2000000 does not fit 26 signed bits"),
    ],
)
def test_field_out_of_range_is_refused(assemble: Callable[[], int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        assemble()


def test_code_with_label_used_before_it_is_set_resolves_both_ways() -> None:
    code = Code(0x1000)
    code.label("loop")
    code.branch("end", lambda offset: a64.cbz(0, offset))
    code.branch("loop")
    code.label("end")
    code.pad_to(0x1010, a64.hint(0))

    image = code.to_bytes()

    words = [int.from_bytes(image[i : i + 4], "little") for i in range(0, len(image), 4)]
    assert words == [a64.cbz(0, 8), a64.b(-4), a64.hint(0), a64.hint(0)]
    assert code.address("end") == 0x1008
