"""Takes out of an explanation what may be private, and keeps what a developer needs.

Content, register values, paths and names go. Tags, runs, sizes, distances, instructions, and what
kind of thing each register points to stay. Addresses are counted from the fault's page: a wild
pointer's address can be text, and an address of the stack or of a library tells how memory was laid
out.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from tagalong.core.tag_runs import TagRun
from tagalong.disassembly import disassemble
from tagalong.explain.crash import (
    AllocatorFacts,
    Block,
    Crash,
    FaultingAccess,
    NoMemory,
    StackFrame,
)
from tagalong.explain.explanation import Explanation, NearestRun, Neighbourhood

FAULT_PAGE: Final = 0x1_0000_0000
"""Where the fault's page is in a redacted explanation."""

_PAGE_BYTES: Final = 4096
_NAME: Final = "redacted"
# The kernel and Apple name a function or an address after the kind of the fault.
_PLACE: Final = re.compile(r" (in|at) .*", re.DOTALL)
# Of what may be a report's own words only what every report of its kind can say stays.
_SIGNAL: Final = r"(SIGSEGV|signal \d{1,3})(, (SEGV_[A-Z]{3,9}|code -?\d{1,10}))?"
_COMMON_REASON: Final = re.compile(
    rf"{_SIGNAL}(, handled, then {_SIGNAL}|, a process of the guest handles it)?"
    r"|(ESR|TFSR|TFSRE0)_EL1 0x[0-9a-f]{1,16}: [a-z ]{1,64}"
    r"|KASAN: ((slab-|vmalloc-|global-|stack-)?out-of-bounds|(slab-)?use-after-free|invalid-access"
    r"|double-free|invalid-free|double-free or invalid-free|wild-memory-access|user-memory-access)"
    r"|EXC_ARM_MTE_(TAGCHECK|CANONICAL)_FAIL"
)
_ANY_REASON: Final = "a report in words of its own"


def redact(explanation: Explanation) -> Explanation:
    """Return the explanation without content, values, paths and names."""
    if explanation.is_redacted:
        return explanation
    move = _Mover(explanation.crash.fault.address)
    hypotheses = tuple(
        replace(each, block=each.block and move.block(each.block))
        for each in explanation.hypotheses
    )
    around = explanation.neighbourhood
    return replace(
        explanation,
        crash=_crash(explanation.crash, move),
        neighbourhood=around and move.neighbourhood(around),
        hypotheses=hypotheses,
        is_redacted=True,
    )


def _crash(crash: Crash, move: "_Mover") -> Crash:
    address = crash.fault.address
    return replace(
        crash,
        name=_NAME,
        process=None,
        thread=None,
        fault=replace(
            crash.fault,
            reason=_reason(crash.fault.reason),
            address=None if address is None else move.address(address),
        ),
        access=crash.access and _access(crash.access),
        registers=None,
        memory=NoMemory(),
        mappings=(),
        backtrace=_frames(crash.backtrace),
        allocator=AllocatorFacts(crash.allocator.kind),
        notes=(),
    )


def _reason(reason: str) -> str:
    short = _PLACE.sub("", reason)
    return short if _COMMON_REASON.fullmatch(short) else _ANY_REASON


def _access(access: FaultingAccess) -> FaultingAccess:
    """Return the access without its place, which an instruction's own text can name, too."""
    text = None if access.encoding is None else disassemble(access.encoding, 0)
    return replace(access, pc=None, text=text)


def _frames(frames: Sequence[StackFrame]) -> tuple[StackFrame, ...]:
    """Return frames as far as modules go: the n-th module that is met is `module n`."""
    names: dict[str, str] = {}
    return tuple(
        StackFrame(
            None,
            None,
            None if f.module is None else names.setdefault(f.module, f"module {len(names) + 1}"),
            f.module_offset,
        )
        for f in frames
    )


class _Mover:
    """Moves addresses so that the fault's page is at FAULT_PAGE."""

    def __init__(self, fault: int | None) -> None:
        self._page = (fault or 0) // _PAGE_BYTES * _PAGE_BYTES

    def address(self, address: int) -> int:
        return address - self._page + FAULT_PAGE

    def block(self, block: Block) -> Block:
        return replace(
            block,
            start=self.address(block.start),
            end=self.address(block.end),
            allocated_by=_frames(block.allocated_by),
            freed_by=_frames(block.freed_by),
            allocating_thread=None,
            freeing_thread=None,
        )

    def run(self, run: TagRun) -> TagRun:
        return replace(run, start=self.address(run.start), end=self.address(run.end))

    def neighbourhood(self, around: Neighbourhood) -> Neighbourhood:
        nearest = around.nearest
        return replace(
            around,
            start=self.address(around.start),
            end=self.address(around.end),
            runs=tuple(self.run(run) for run in around.runs),
            blocks=tuple(self.block(block) for block in around.blocks),
            nearest=nearest and NearestRun(self.run(nearest.run), nearest.distance_bytes),
        )
