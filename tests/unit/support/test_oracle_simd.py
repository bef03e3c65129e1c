"""The oracle's forms for SIMD draw every operation that the machine claims."""

from tagalong.disassembly import disassemble
from tests.support.oracle_draw import Draw
from tests.support.oracle_forms_simd import mnemonic_of, operation
from tests.support.oracle_forms_simd_memory import SIMD_MEMORY

DRAWS = 8000

# As the disassembler calls them: INS is "mov", NOT is "mvn", compares with zero are compares.
OPERATIONS = """
abs add addhn addp addv aesd aese aesimc aesmc and bic bif bit bsl cls clz cmeq cmge cmgt cmhi
cmhs cmle cmlt cmtst cnt dup eor ext fmov mla mls mov movi mul mvn mvni neg orn orr pmul pmull
raddhn rbit rev16 rev32 rev64 rshrn rsubhn saba sabal sabd sabdl sadalp saddl saddlp saddlv saddw
sdot sha1c sha1h sha1m sha1p sha1su0 sha1su1 sha256h sha256h2 sha256su0 sha256su1 shadd shl shll
shrn shsub sli smax smaxp smaxv smin sminp sminv smlal smlsl smov smull sqabs sqadd sqdmlal
sqdmlsl sqdmulh sqdmull sqneg sqrdmlah sqrdmlsh sqrdmulh sqrshl sqrshrn sqrshrun sqshl sqshlu
sqshrn sqshrun sqsub sqxtn sqxtun srhadd sri srshl srshr srsra sshl sshll sshr ssra ssubl ssubw
sub subhn suqadd tbl tbx trn1 trn2 uaba uabal uabd uabdl uadalp uaddl uaddlp uaddlv uaddw udot
uhadd uhsub umax umaxp umaxv umin uminp uminv umlal umlsl umov umull uqadd uqrshl uqrshrn uqshl
uqshrn uqsub uqxtn urhadd urshl urshr ursra ushl ushll ushr usqadd usra usubl usubw uzp1 uzp2 xtn
zip1 zip2
"""
# With a form for the upper half, whose name ends in 2.
WITH_UPPER_HALF = """
addhn pmull raddhn rshrn rsubhn sabal sabdl saddl saddw shll shrn smlal smlsl smull sqdmlal
sqdmlsl sqdmull sqrshrn sqrshrun sqshrn sqshrun sqxtn sqxtun sshll ssubl ssubw subhn uabal uabdl
uaddl uaddw umlal umlsl umull uqrshrn uqshrn uqxtn ushll usubl usubw xtn
"""


def test_forms_draw_every_integer_operation_and_no_other() -> None:
    draw = Draw("every operation")

    drawn = {mnemonic_of(operation(draw)[0]) for _ in range(DRAWS)}

    assert drawn == {*OPERATIONS.split(), *(f"{name}2" for name in WITH_UPPER_HALF.split())}


def test_memory_forms_draw_every_size_and_structure_as_load_and_store() -> None:
    draw = Draw("every access")
    draw.pc = 0x4038_0000
    words = [draw.pick(SIMD_MEMORY)(draw)[-1] for _ in range(DRAWS // 4)]

    mnemonics = {word_mnemonic(word) for word in words}
    structures = {f"{way}{n}" for way in ("ld", "st") for n in range(1, 5)}
    assert mnemonics == structures | {
        "ld1r", "ld2r", "ld3r", "ld4r", "ldnp", "ldp", "ldr", "ldur", "stnp", "stp", "str", "stur"
    }  # fmt: skip
    one_register = {
        (word >> 30, word >> 22 & 3) for word in words if word >> 24 & 0x3F in {0x3C, 0x3D}
    }
    assert len(one_register) == 10, "loads and stores of 1, 2, 4, 8 and 16 bytes"


def word_mnemonic(word: int) -> str:
    return disassemble(word, 0).split()[0]
