"""Says what a failing program was, so that a person can run it again and see why."""

from tests.support.oracle_compare import Failure
from tests.support.oracle_layout import slot_address

from tagalong.soft.disassembly import disassemble


def report(failure: Failure, *, minimised: bool) -> str:
    """Return the name, the start, the differences and the disassembled program."""
    program, state = failure.program, failure.program.state
    level = "EL1" if program.privileged else "EL0"
    lines = [
        f"{program.name} at {level}, faults {state.faults.name}, exclude {state.exclude:#x}, "
        f"pstate {state.pstate:#x}{', minimised' if minimised else ''}",
        *(f"  {line}" for line in failure.lines),
    ]
    pc = slot_address(failure.slot)
    for word in program.words:
        lines.append(f"    {pc:#x}: {word:08x}  {disassemble(word, pc)}")
        pc += 4
    registers = [f"x{number}={value:#x}" for number, value in enumerate(state.registers)]
    return "\n".join([*lines, f"    {' '.join(registers)} sp={state.sp:#x}"])
