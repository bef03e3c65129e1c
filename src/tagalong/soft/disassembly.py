"""The text of an instruction, for the message about one that stopped the machine."""

import capstone


def disassemble(encoding: int, pc: int) -> str:
    """Return what an assembler would write for `encoding`, or that there is no text for it."""
    decoder = capstone.Cs(capstone.CS_ARCH_ARM64, capstone.CS_MODE_ARM)
    for _, _, mnemonic, operands in decoder.disasm_lite(encoding.to_bytes(4, "little"), pc):
        return f"{mnemonic} {operands}".strip()
    return "no disassembly"
