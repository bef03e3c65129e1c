"""Which memory an instruction touches: by example, and against another disassembler."""

import random
import re

import pytest

from tagalong.disassembly import disassemble
from tagalong.explain.crash import DataDirection
from tagalong.explain.instruction import decode_access, index_bytes
from tests.support.cases import check_each

READ, WRITE = DataDirection.READ, DataDirection.WRITE

# Encoding, size, direction, base, offset.
EXAMPLES = [
    (0x39400001, 1, READ, "x0", 0),  # ldrb w1, [x0]
    (0xF9400C01, 8, READ, "x0", 24),  # ldr x1, [x0, #24]
    (0xB81FC3E2, 4, WRITE, "sp", -4),  # stur w2, [sp, #-4]
    (0xF8410C43, 8, READ, "x2", 16),  # ldr x3, [x2, #16]!
    (0xF8410443, 8, READ, "x2", 0),  # ldr x3, [x2], #16
    (0xA9BF7BFD, 16, WRITE, "sp", -16),  # stp x29, x30, [sp, #-16]!
    (0x3DC00100, 16, READ, "x8", 0),  # ldr q0, [x8]
    (0xAD000440, 32, WRITE, "x2", 0),  # stp q0, q1, [x2]
    (0xC85F7C20, 8, READ, "x1", 0),  # ldxr x0, [x1]
    (0x885FFC20, 4, READ, "x1", 0),  # ldaxr w0, [x1]
    (0xC8A07C41, 8, WRITE, "x2", 0),  # cas x0, x1, [x2]
    (0x48207C82, 16, WRITE, "x4", 0),  # casp x0, x1, x2, x3, [x4]
    (0xF8200041, 8, WRITE, "x2", 0),  # ldadd x0, x1, [x2]
    (0x0C407000, 8, READ, "x0", 0),  # ld1 {v0.8b}, [x0]
    (0x4C002000, 64, WRITE, "x0", 0),  # st1 {v0.16b - v3.16b}, [x0]
    (0x0D408000, 4, READ, "x0", 0),  # ld1 {v0.s}[0], [x0]
    (0x69407BFD, 8, READ, "sp", 0),  # ldpsw x29, x30, [sp]
]  # fmt: skip


def test_access_of_an_instruction_is_decoded() -> None:
    check_each(EXAMPLES, check_example, lambda example: disassemble(example[0], 0))


def check_example(example: tuple[int, int, DataDirection, str, int]) -> None:
    encoding, size, direction, base, offset = example

    access = decode_access(encoding, 0x1000)

    assert (access.size_bytes, access.direction, access.base, access.offset_bytes) == (
        size, direction, base, offset,
    )  # fmt: skip


@pytest.mark.parametrize("encoding", [0x91000400, 0xD503201F, 0x94000000, 0xF9800000, 0xD9200800])
def test_instruction_without_a_checked_access_has_only_its_text(encoding: int) -> None:
    access = decode_access(encoding, 0)

    assert access.size_bytes is None
    assert access.base is None
    assert access.text


@pytest.mark.parametrize(
    ("encoding", "value", "added"),
    [
        (0xF8626820, 5, 5),  # ldr x0, [x1, x2]
        (0xF8627820, 5, 40),  # ldr x0, [x1, x2, lsl #3]
        (0xB862D820, 0xFFFF_FFFF, -4),  # ldr w0, [x1, w2, sxtw #2]
        (0xB8625820, 0x1_0000_0002, 8),  # ldr w0, [x1, w2, uxtw #2]
    ],
)
def test_index_of_an_access_is_extended_and_shifted(encoding: int, value: int, added: int) -> None:
    access = decode_access(encoding, 0)

    assert access.index == "x2"
    assert index_bytes(access, value) == added


def test_base_register_is_the_disassemblers() -> None:
    """Whatever is decoded names the base register that the disassembler prints."""
    words = random.Random(7)
    seen = 0
    for _ in range(4_000):
        # Encodings of loads and stores: bits 27 and 25 are 1 and 0.
        word = words.getrandbits(32) & ~(1 << 25) | 1 << 27
        access = decode_access(word, 0)
        text = access.text or ""
        bases = re.findall(r"\[(\w+)", text)
        if access.base is None or text == "no disassembly" or not bases:
            continue
        seen += 1
        assert bases[-1] == access.base, f"{word:#010x} {text}"
        assert access.direction is (WRITE if is_store(text) else READ), f"{word:#010x} {text}"
    assert seen > 700


def is_store(text: str) -> bool:
    mnemonic = text.split(maxsplit=1)[0]
    atomic = ("cas", "swp", "ldadd", "ldclr", "ldeor", "ldset", "ldsmax", "ldsmin", "ldumax",
              "ldumin")  # fmt: skip
    return mnemonic.startswith(("st", *atomic))
