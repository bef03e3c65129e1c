"""The oracle's forms for floating point draw every operation with every size that it has."""

import re
from collections import defaultdict

from tagalong.disassembly import disassemble
from tests.support.oracle_draw import Draw
from tests.support.oracle_forms_fp import FLOATING_POINT

DRAWS = 20_000

SCALARS, VECTORS, GENERAL = {"h", "s", "d"}, {"4h", "8h", "2s", "4s", "2d"}, {"w", "x"}

# Mnemonics, and what they write (or compare).
OPERATIONS = (
    ("""fabd fabs facge facgt fadd faddp fcmeq fcmge fcmgt fcmle fcmlt fdiv fmax fmaxnm fmaxnmp
     fmaxp fmin fminnm fminnmp fminp fmla fmls fmul fmulx fneg frecpe frecps frinta frinti frintm
     frintn frintp frintx frintz frsqrte frsqrts fsqrt fsub scvtf ucvtf""", SCALARS | VECTORS),
    ("""fcvtas fcvtau fcvtms fcvtmu fcvtns fcvtnu fcvtps fcvtpu fcvtzs fcvtzu""",
     SCALARS | VECTORS | GENERAL),
    ("fccmp fccmpe fcmp fcmpe fcsel fcvt fmadd fmsub fnmadd fnmsub fnmul frecpx", SCALARS),
    ("fmov", SCALARS | GENERAL | {"d[1]"}),
    ("fmaxnmv fmaxv fminnmv fminv", {"h", "s"}),
    ("fcvtl fcvtl2", {"4s", "2d"}),
    ("fcvtn", {"4h", "2s"}),
    ("fcvtn2", {"8h", "4s"}),
    ("fcvtxn", {"s", "2s"}),
    ("fcvtxn2", {"4s"}),
    ("urecpe ursqrte", {"2s", "4s"}),
)  # fmt: skip


def test_forms_draw_every_operation_of_every_size() -> None:
    draw = Draw("every operation")
    draw.pc = 0x4038_0000
    drawn: dict[str, set[str]] = defaultdict(set)

    for _ in range(DRAWS):
        chunk = draw.pick(FLOATING_POINT)(draw)
        word = next((word for word in chunk if word >> 25 & 7 == 7), None)
        if word is not None:
            mnemonic, _, operands = disassemble(word, 0).partition(" ")
            drawn[mnemonic].add(size_of(operands.split(",")[0].strip()))

    expected = {name: sizes for names, sizes in OPERATIONS for name in names.split()}
    assert drawn == expected


def size_of(operand: str) -> str:
    """Return "4s" of v1.4s, "d" of d1, "x" of xzr."""
    vector = re.fullmatch(r"v\d+\.(.+)", operand)
    return vector[1] if vector else re.sub(r"\d+$|zr$", "", operand)
