"""Says what failing programs were, so that a person can run them again and see why."""

from pathlib import Path

from tagalong.disassembly import disassemble
from tests.support.oracle_compare import Failure
from tests.support.oracle_layout import slot_address
from tests.support.oracle_minimise import minimise
from tests.support.oracle_soft import SoftSide


def explain(qemu: Path, soft: SoftSide, failures: list[Failure], most: int = 3) -> str:
    """Return how many failed, and the first of them in full, minimised."""
    reports = [_report(minimise(qemu, soft, failure)) for failure in failures[:most]]
    return "\n".join([f"{len(failures)} programs differ from the oracle", *reports])


def _report(failure: Failure) -> str:
    """Return the name, the start, the differences and the disassembled program."""
    program, state = failure.program, failure.program.state
    kind, _, seed = program.name.split()
    level = "EL1" if program.privileged else "EL0"
    lines = [
        f"{program.name}, minimised, at {level}, tag check faults {state.faults.name}, "
        f"exclude {state.exclude:#x}, pstate {state.pstate:#x}",
        f"  again: python -m tests.oracle.long --minutes 0 --kind {kind} --seed {seed}",
        *(f"  {line}" for line in failure.lines),
    ]
    pc = slot_address(failure.slot)
    for word in program.words:
        lines.append(f"    {pc:#x}: {word:08x}  {disassemble(word, pc)}")
        pc += 4
    registers = [f"x{number}={value:#x}" for number, value in enumerate(state.registers)]
    return "\n".join([*lines, f"    {' '.join(registers)} sp={state.sp:#x}"])
