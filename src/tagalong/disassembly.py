"""The text of an instruction, for messages and reports."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tagalong._lazy import module_when_used

if TYPE_CHECKING:
    import capstone
else:  # for messages about what hardly any guest does
    capstone = module_when_used("capstone")

_STGP_MASK: Final = 0xFE40_0000
_STGP: Final = 0x6800_0000
_STGP_FORMS: Final = {  # bits 24:23
    1: "[{base}], #{offset:#x}",
    2: "[{base}, #{offset:#x}]",
    3: "[{base}, #{offset:#x}]!",
}
_PLAIN_OFFSET: Final = 2
_NUMBER_31: Final = 31


def disassemble(encoding: int, pc: int) -> str:
    """Return the assembler text of `encoding` at `pc`, or "no disassembly"."""
    decoder = capstone.Cs(capstone.CS_ARCH_ARM64, capstone.CS_MODE_ARM)
    for _, _, mnemonic, operands in decoder.disasm_lite(encoding.to_bytes(4, "little"), pc):
        return f"{mnemonic} {operands}".strip()
    return _store_tag_pair(encoding) or "no disassembly"


def _store_tag_pair(encoding: int) -> str | None:
    """Return the text of STGP, which capstone 5 does not know (DDI 0487 C6.2)."""
    mode = encoding >> 23 & 3
    if encoding & _STGP_MASK != _STGP or mode not in _STGP_FORMS:
        return None
    number = encoding >> 15 & 0x7F
    offset = (number - 0x80 if number & 0x40 else number) * 16
    form = "[{base}]" if mode == _PLAIN_OFFSET and not offset else _STGP_FORMS[mode]
    where = form.format(base=_register(encoding >> 5 & 31, "sp"), offset=offset)
    first, second = (_register(encoding >> low & 31, "xzr") for low in (0, 10))
    return f"stgp {first}, {second}, {where}"


def _register(number: int, name_of_31: str) -> str:
    return name_of_31 if number == _NUMBER_31 else f"x{number}"
