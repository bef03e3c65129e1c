"""Reads reports of KASAN with tags, HW_TAGS and SW_TAGS, in the text of a kernel's log.

Source: Linux mm/kasan/report.c, report_tags.c, report_hw_tags.c, report_sw_tags.c, tags.c.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from tagalong.errors import CrashReportError
from tagalong.explain.crash import (
    Allocator,
    AllocatorFacts,
    Block,
    BlockState,
    CheckMode,
    Crash,
    CrashWorld,
    DataDirection,
    ReportedCause,
    SourceKind,
    StackFrame,
    TagFault,
)
from tagalong.explain.memory import ShownMemory, WindowMemory
from tagalong.mte import GRANULE_BYTES
from tagalong.mte.pointers import address_of

FREED_TAG: Final = 0xFE
MAX_REPORTS: Final = 1 << 16
_MAX_LINES: Final = 600
_ROW_GRANULES: Final = 16

_TITLE: Final = re.compile(r"BUG: KASAN: (\S+) in (\S+)")
_ACCESS: Final = re.compile(
    r"(Read|Write|Free)(?: of size (\d{1,9}))? (?:at|of) addr ([0-9a-f]{16}) by task (.+)/(\d+)"
)
_TAGS: Final = re.compile(r"Pointer tag: \[([0-9a-f]{2})\], memory tag: \[([0-9a-f]{2})\]")
_OBJECT: Final = re.compile(r"belongs to the object at ([0-9a-f]{16})")
_CACHE: Final = re.compile(r"belongs to the cache (\S+) of size (\d{1,9})")
_REGION: Final = re.compile(r"(\d{1,9})-byte region \[([0-9a-f]{16}), ([0-9a-f]{16})\)")
_ROW: Final = re.compile(r"[> ]?([0-9a-f]{16}): ((?:[0-9a-f]{2} ){15}[0-9a-f]{2})\s*$")
_STACK: Final = re.compile(r"(Call trace|Allocated by task \d+|Freed by task \d+)[^:]*:")
_FRAME: Final = re.compile(r" *(?:\[<[0-9a-f]+>\] )?([\w.$]+\+0x[0-9a-f]+)/0x[0-9a-f]+")
_ASYNCHRONOUS: Final = "Asynchronous fault"
# The kernel's own way into the report, which is above what went wrong. KASAN's tests have names
# that begin with kasan_ as well.
_MACHINERY: Final = re.compile(
    r"(dump_|show_|print_|el1|do_(bad_area|mem_abort|tag_check|tag_recovery)|__do_kernel_fault"
    r"|_*kasan_(report|check|save|set|kmalloc|krealloc|kfree|slab|poison|unpoison|mempool|tag_)"
    r"|save_stack|poison_|check_slab|check_page_allocation|__hwasan|__asan|stack_trace|__pi_"
    r"|__(mem|str)[a-z]+\b)"
)
# What runs a test or a thread: it is below what went wrong, and never the place of it.
_HARNESS: Final = re.compile(r"(kunit_|kthread\b|ret_from_fork\b)")
# "CPU: 0 UID: 0 PID: 27 Comm: kunit_try_catch Tainted: G N 6.12.117 #1 d3b07384..."
_BUILD: Final = re.compile(
    r"CPU: \d{1,6} .{0,60}?Comm: .{0,160}? (\S{1,64} #\S{1,32})(?: ([0-9a-f]{40}))? *$"
)


def is_kasan(raw: bytes) -> bool:
    """Return whether a text has a report of KASAN."""
    return b"BUG: KASAN:" in raw


def read_kasan(lines: Sequence[str], name: str) -> list[Crash]:
    """Return the crashes of a log, in order.

    Raises CrashReportError if none of them has tags: generic KASAN has none.
    """
    starts = [at for at, line in enumerate(lines) if _TITLE.search(line)][:MAX_REPORTS]
    bounds = [*starts[1:], len(lines)][: len(starts)]
    found = [
        crash
        for start, stop in zip(starts, bounds, strict=True)
        if (crash := _Report(lines[start : min(stop, start + _MAX_LINES)]).crash(name))
    ]
    if not found:
        raise CrashReportError(
            "it has no report of KASAN that is whole"
            if not starts
            else "its reports are of generic KASAN, which has no tags; nothing here is about them"
        )
    return found


class _Report:
    """The lines of one report."""

    def __init__(self, lines: Sequence[str]) -> None:
        end = next((at for at, line in enumerate(lines) if at and line.startswith("======")), None)
        self._lines = lines[:end]
        self._text = "\n".join(self._lines)
        found = next((m for line in self._lines if (m := _BUILD.match(line))), None)
        self._build = found and (found[2] or found[1])

    def crash(self, name: str) -> Crash | None:
        """Return the crash, None if the report has no tags."""
        title = _TITLE.search(self._lines[0])
        tags, access = _TAGS.search(self._text), _ACCESS.search(self._text)
        if title is None or access is None:
            return None
        is_async = _ASYNCHRONOUS in self._text
        if tags is None and not is_async:
            return None
        kind = Allocator.KASAN_SW if access[2] else Allocator.KASAN_HW
        pointer = int(access[3], 16)
        fault = TagFault(
            CheckMode.ASYNC if is_async else CheckMode.SYNC,
            f"KASAN: {title[1]} in {title[2]}",
            None if is_async else address_of(pointer),
            int(tags[1], 16) if tags else None,
            int(tags[2], 16) if tags else None,
            int(access[2]) if access[2] else None,
            _DIRECTIONS.get(access[1]),
            is_free=access[1] == "Free",
        )
        return Crash(
            SourceKind.KASAN_REPORT,
            CrashWorld.KERNEL,
            name,
            fault,
            memory=WindowMemory([*self._rows()]),
            backtrace=self._backtrace(title[2].split("/")[0]),
            allocator=self._facts(kind, fault),
            process=access[4],
            thread=int(access[5]),
            tag_bits=8,
        )

    def _rows(self) -> Iterator[ShownMemory]:
        for line in self._lines:
            row = _ROW.match(line)
            if row:
                tags = np.array([int(tag, 16) for tag in row[2].split()], np.int16)
                yield ShownMemory(int(row[1], 16), None, tags)

    def _facts(self, kind: Allocator, fault: TagFault) -> AllocatorFacts:
        region = _REGION.search(self._text)
        cache = _CACHE.search(self._text)
        known_by = f"the report; cache {cache[1]}" if cache else "the report"
        title = ReportedCause(fault.reason)
        if region is None or int(region[2], 16) >= int(region[3], 16):
            return AllocatorFacts(kind, known_by, reported=(title,))
        freed = self._stack("Freed by")
        block = Block(
            int(region[2], 16),
            int(region[3], 16),
            self._object_tag(int(region[2], 16), fault, is_freed=bool(freed)),
            self._state(int(region[2], 16)),
            "the kernel's report",
            is_exact=True,
            allocated_by=self._stack("Allocated by"),
            freed_by=freed,
        )
        # The kernel found the stacks by object, tag and size: it had this pointer's tag then.
        had = (replace(block, tag=fault.pointer_tag, state=BlockState.FREED),)
        return AllocatorFacts(kind, known_by, (block,), had if freed else (), (title,))

    def _object_tag(self, start: int, fault: TagFault, *, is_freed: bool) -> int | None:
        first = self._tag_at(start)
        if first is not None:
            return None if first == FREED_TAG else first
        return None if is_freed else fault.pointer_tag

    def _state(self, start: int) -> BlockState:
        first = self._tag_at(start)
        if first is None:
            return BlockState.UNKNOWN
        return BlockState.FREED if first == FREED_TAG else BlockState.ALLOCATED

    def _tag_at(self, address: int) -> int | None:
        for row in self._rows():
            number = (address - row.address) // GRANULE_BYTES
            if row.tags is not None and 0 <= number < _ROW_GRANULES:
                return int(row.tags[number])
        return None

    def _backtrace(self, place: str) -> tuple[StackFrame, ...]:
        """Return the call stack from the bug on; `place` is where the title says that it is."""
        frames = self._stack("Call trace")
        first = (frames[0].symbol or "") if frames else ""
        if first and not _HARNESS.match(first) and not _MACHINERY.match(first):
            return frames
        return (StackFrame(None, place, build=self._build), *frames)

    def _stack(self, title: str) -> tuple[StackFrame, ...]:
        """Return the frames under a heading, from the first that is not KASAN's own."""
        frames = self._frames(title)
        real = [at for at, f in enumerate(frames) if not _MACHINERY.match(f.symbol or "")]
        return frames[real[0] :] if real else frames

    def _frames(self, title: str) -> tuple[StackFrame, ...]:
        frames: list[StackFrame] = []
        is_inside = False
        for line in self._lines:
            heading = _STACK.match(line.strip())
            if heading:
                is_inside = heading[1].startswith(title)
                continue
            frame = _FRAME.fullmatch(line.split(" (")[0].rstrip())
            if is_inside and frame:
                frames.append(StackFrame(None, frame[1], build=self._build))
            elif is_inside and frames:
                break
        return tuple(frames)


_DIRECTIONS: Final = {"Read": DataDirection.READ, "Write": DataDirection.WRITE}
