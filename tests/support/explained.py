"""An explanation that no reader made: a use after free whose every field is set."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from tagalong.core.regions import CoreRegion
from tagalong.core.tag_runs import TagRun
from tagalong.explain.crash import (
    UNKNOWN_TAG,
    Allocator,
    AllocatorFacts,
    Block,
    BlockState,
    CheckMode,
    Crash,
    CrashMapping,
    CrashWorld,
    DataDirection,
    FaultingAccess,
    ReportedCause,
    SourceKind,
    StackFrame,
    TagArray,
    TagFault,
)
from tagalong.explain.explanation import (
    Cause,
    Evidence,
    Explanation,
    Hypothesis,
    NearestRun,
    Neighbourhood,
)

START = 0x7F00_0000_0000
SIZE = 4 * 4096
FAULT = START + 0x1020
BLOCK = Block(FAULT - 0x20, FAULT + 0x10, 3, BlockState.FREED, "chunk headers", is_exact=True)


@dataclass
class ArrayMemory:
    """Memory whose tags and data are arrays, from START on."""

    tag_values: TagArray = field(default_factory=lambda: np.zeros(SIZE // 16, np.int16))
    content: bytes = bytes(range(256)) * (SIZE // 256)

    @property
    def extents(self) -> tuple[CoreRegion, ...]:
        return (CoreRegion(START, SIZE, has_data=True, has_tags=True),)

    @property
    def address_space(self) -> tuple[CoreRegion, ...]:
        return self.extents

    def stored_tags(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        yield start, stop

    def data(self, address: int, length: int) -> bytes | None:
        at = address - START
        return self.content[at : at + length] if at >= 0 and at + length <= SIZE else None

    def tags(self, address: int, length: int) -> TagArray:
        found = np.full(length // 16, UNKNOWN_TAG, np.int16)
        for number in range(length // 16):
            at = (address - START) // 16 + number
            if 0 <= at < SIZE // 16:
                found[number] = self.tag_values[at]
        return found


def explanation(
    name: str = "core.1234", text: str = "the pointer's block was freed"
) -> Explanation:
    """Return it; `name` and `text` go wherever a file's own words go."""
    memory = ArrayMemory()
    memory.tag_values[0x100:0x140] = 5
    crash = Crash(
        source=SourceKind.PROCESS_CORE,
        world=CrashWorld.PROCESS,
        name=name,
        fault=TagFault(CheckMode.SYNC, f"SEGV_MTESERR {text}", FAULT + 8, 3, 5, 8,
                       DataDirection.WRITE),
        access=FaultingAccess(0x40_1000, 0xF900_0001, "str x1, [x0, #8]", 8, DataDirection.WRITE,
                              "x0", None, 8),
        registers={"x0": 0x0300_7F00_0000_1020, "x1": 0x41, "sp": 0x7FFF_0000, "pc": 0x40_1000},
        memory=memory,
        mappings=(CrashMapping(START, START + SIZE, f"[anon:{text}]"),),
        backtrace=(StackFrame(0x40_1000, f"main {text}", name, 0x1000), StackFrame(None)),
        allocator=AllocatorFacts(Allocator.GLIBC, "chunk headers", (BLOCK,),
                                 reported=(ReportedCause(text),)),
        process=name,
        notes=(f"a note about {text}",),
    )  # fmt: skip
    run = TagRun(FAULT - 0x20, FAULT + 0x3E0, 5)
    return Explanation(
        crash,
        Neighbourhood(START, START + SIZE, (run,), 0, 5, (BLOCK,), NearestRun(run, 0)),
        (
            Hypothesis(Cause.USE_AFTER_FREE, 0.9, text, BLOCK, 0x28,
                       (Evidence(f"for: {text}", 12.0),), (Evidence(f"against: {text}", 0.25),)),
            Hypothesis(Cause.OVERFLOW, 0.0999, "a neighbour", None, 0, (), (Evidence("no", 0),)),
            Hypothesis(Cause.WILD_POINTER, 0.0001, "anything"),
        ),
        (f"limit: {text}",),
        (("x0", "pointer to the heap"), ("x1", text)),
    )  # fmt: skip
