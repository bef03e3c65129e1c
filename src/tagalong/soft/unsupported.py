"""The error for an instruction that the embedded machine does not implement."""

from tagalong._native import InterpreterExit
from tagalong.disassembly import disassemble
from tagalong.errors import UnsupportedInstructionError


def unsupported(leave: InterpreterExit) -> UnsupportedInstructionError:
    """Return the error for an instruction before which a CPU stopped."""
    return UnsupportedInstructionError(
        vcpu=leave.vcpu,
        pc=leave.pc,
        encoding=leave.insn,
        disassembly=disassemble(leave.insn, leave.pc),
    )
