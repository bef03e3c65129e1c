import pytest

from tagalong.disassembly import disassemble
from tests.support import a64


@pytest.mark.parametrize(
    ("word", "text"),
    [
        (a64.stgp(a64.PAIR_OFFSET, 1, 2, 0), "stgp x1, x2, [x0]"),
        (a64.stgp(a64.PAIR_OFFSET, 31, 2, 31, -16), "stgp xzr, x2, [sp, #-0x10]"),
        (a64.stgp(a64.PAIR_PRE, 1, 2, 3, 0), "stgp x1, x2, [x3, #0x0]!"),
        (a64.stgp(a64.PAIR_POST, 1, 31, 30, 1008), "stgp x1, xzr, [x30], #0x3f0"),
        (a64.stgp(a64.PAIR_POST, 1, 2, 3, -1024), "stgp x1, x2, [x3], #-0x400"),
        (a64.stg(1, 2), "stg x1, [x2]"),
        (0x68400000, "no disassembly"),  # a load with STGP's other bits is unallocated
        (0, "udf #0"),
    ],
)
def test_disassemble_gives_what_an_assembler_is_given(word: int, text: str) -> None:
    assert disassemble(word, 0) == text
