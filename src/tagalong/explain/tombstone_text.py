"""Reads Android tombstones as text: debuggerd's form, and the short one of GrapheneOS.

Source: AOSP system/core, debuggerd/libdebuggerd/tombstone_proto_to_text.cpp.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import takewhile, zip_longest
from typing import Final

import numpy as np

from tagalong.errors import CrashReportError
from tagalong.explain.crash import (
    UNKNOWN_TAG,
    Crash,
    CrashMapping,
    StackFrame,
)
from tagalong.explain.memory import ShownMemory
from tagalong.explain.tombstone import TombstoneCause, TombstoneFields, crash_of
from tagalong.mte import GRANULE_BYTES
from tagalong.mte.pointers import address_of

_SIGNAL: Final = re.compile(
    r"signal:? (\d+) \((\w+)\), code (-?\d+) \(([\w ]+)\), "
    r"fault ?[aA]ddr (?:0x)?([0-9a-f]{1,16}|-+)"
)
_NAMES: Final = re.compile(r"pid: (\d+), tid: (\d+), name: (\S.{0,64}?) {1,8}>>> (.{0,256}) <<<")
_COMMAND: Final = re.compile(r"(?:cmdline|Cmdline): (.+)")
_THREAD_NAME: Final = re.compile(r"threadName: (.+)")
_REGISTER: Final = re.compile(r"\b(x ?\d{1,2}|lr|sp|pc|p ?st) +([0-9a-f]{16})\b")
_MOST_REGISTER_LINES: Final = 40
_CONTROL: Final = re.compile(r"tagged_addr_ctrl: ([0-9a-f]{16})")
_CAUSE: Final = re.compile(r"[cC]ause: (\[MTE\]: .*|.+)")
_FRAME: Final = re.compile(
    r" *#\d+ pc ([0-9a-f]{1,16}) +(\S+)(?: \((?!BuildId|offset)(.*?)\))?(?: \(|$)"
)
_BUILD: Final = re.compile(r"\(BuildId: ([0-9a-f]{1,128})\)")
_PC: Final = re.compile(r"pc ([0-9a-f]{1,16})\)")
_ALLOCATED: Final = re.compile(r"(de)?allocated by thread (\d{1,10})", re.IGNORECASE)
_NEAR: Final = re.compile(r"memory near \S+")
_BYTES_ROW: Final = re.compile(r" +([0-9a-f]{16}) ((?:[0-9a-f]{16} ?){1,2})")
_TAG_ROW: Final = re.compile(
    r" *(?:=>)? *0x([0-9a-f]{1,16}): ?((?: *(?:\[[0-9a-f]\]|[0-9a-f.])){1,64}) *$"
)
_LINES_OF_A_TITLE: Final = 3
_MAP_ROW: Final = re.compile(
    r"[ \-=>]*([0-9a-f]{8}'[0-9a-f]{8})-([0-9a-f]{8}'[0-9a-f]{8}) [rwx-]{3} +([0-9a-f]+)"
    r" +([0-9a-f]+) *(.*)"
)
_MAX_MAPPINGS: Final = 1 << 17


def is_tombstone_text(raw: bytes) -> bool:
    """Return whether a text is a tombstone, or an extract of one."""
    return re.search(rb"signal:? \d+ \(SIG", raw) is not None


def read_tombstone_text(lines: Sequence[str], name: str) -> Crash:
    """Return the crash of a tombstone. Raises CrashReportError if it names no signal."""
    # A mail program has broken long lines.
    signal = next((found for line in _pairs(lines) if (found := _SIGNAL.search(line))), None)
    if signal is None:
        raise CrashReportError("there is no line about the signal: this is no tombstone")
    fields = TombstoneFields(
        signal=int(signal[1]),
        code=int(signal[3]),
        code_name=signal[4],
        address=None if signal[5].startswith("-") else int(signal[5], 16),
    )
    _read_names(lines, fields)
    fields.registers = _registers(lines)
    fields.windows = [*_windows(lines), *_tag_windows(lines)]
    fields.mappings = [*_mappings(lines)]
    fields.causes = [*_causes(lines)]
    fields.backtrace = _backtrace(lines)
    return crash_of(fields, name)


def _read_names(lines: Sequence[str], fields: TombstoneFields) -> None:
    for line in _pairs(lines):
        if found := _NAMES.search(line):
            fields.thread, fields.process = int(found[2]), found[4]
        elif found := _COMMAND.match(line.strip()):
            fields.process = fields.process or found[1]
        elif found := _CONTROL.search(line):
            fields.control = int(found[1], 16)


def _pairs(lines: Sequence[str]) -> Iterator[str]:
    """Yield each line with the one below it."""
    for line, following in zip_longest(lines, lines[1:], fillvalue=""):
        yield f"{line} {following.strip()}"


def _registers(lines: Sequence[str]) -> dict[str, int]:
    """Return the registers of the thread that crashed: the first ones in the text."""
    first = next((number for number, line in enumerate(lines) if _REGISTER.search(line)), 0)
    block = takewhile(str.strip, lines[first : first + _MOST_REGISTER_LINES])
    found: dict[str, int] = {}
    for register, value in _REGISTER.findall(" ".join(line.strip() for line in block)):
        name = {"lr": "x30", "pst": "pstate"}.get(register.replace(" ", ""), register)
        found.setdefault(name.replace(" ", ""), int(value, 16))
    return found


def _windows(lines: Sequence[str]) -> Iterator[ShownMemory]:
    """Yield the memory near registers. Its addresses have the memory's tag in their top byte."""
    is_near = False
    for line in lines:
        if _NEAR.match(line.strip()):
            is_near = True
            continue
        row = _BYTES_ROW.match(line) if is_near else None
        if row is None:
            is_near = is_near and not line.strip()
            continue
        words = [bytes.fromhex(word)[::-1] for word in row[2].split()]
        address = int(row[1], 16)
        start = address_of(address)
        tag = address >> 56 & 0xF
        tags = np.array([tag if tag else UNKNOWN_TAG], np.int16)
        yield ShownMemory(start, b"".join(words), tags if start % GRANULE_BYTES == 0 else None)


def _tag_windows(lines: Sequence[str]) -> Iterator[ShownMemory]:
    left = 0  # mail programs break the title
    for line in lines:
        if line.strip().startswith("Memory tags around the fault address"):
            left = _LINES_OF_A_TITLE
            continue
        row = _TAG_ROW.match(line) if left else None
        if row is None:
            left = max(0, left - bool(line.strip()))
            continue
        left = 1
        # A point stands for a granule whose tag could not be read.
        tags = [UNKNOWN_TAG if d == "." else int(d, 16) for d in re.findall(r"[0-9a-f.]", row[2])]
        yield ShownMemory(address_of(int(row[1], 16)), None, np.array(tags, np.int16))


def _mappings(lines: Sequence[str]) -> Iterator[CrashMapping]:
    count = 0
    for line in lines:
        row = _MAP_ROW.match(line)
        if row is None or count >= _MAX_MAPPINGS:
            continue
        start, end = (int(text.replace("'", ""), 16) for text in (row[1], row[2]))
        name = row[5].split(" (BuildId")[0].strip()
        count += 1
        # The end in the text is the last byte.
        yield CrashMapping(start, end + 1, name, int(row[3], 16) if name.startswith("/") else None)


def _causes(lines: Sequence[str]) -> Iterator[TombstoneCause]:
    pending: TombstoneCause | None = None
    frames: list[StackFrame] | None = None
    for line in lines:
        if found := _CAUSE.search(line):
            if pending is not None:
                yield pending
            pending, frames = TombstoneCause(found[1]), None
        elif pending is not None and (stack := _ALLOCATED.search(line)):
            if stack[1]:
                frames, pending.freeing_thread = pending.freed_by, int(stack[2])
            else:
                frames, pending.allocating_thread = pending.allocated_by, int(stack[2])
        elif frames is not None and (frame := _frame(line)):
            frames.append(frame)
        elif line.startswith(("memory near", "memory map", "---")):
            frames = None
    if pending is not None:
        yield pending


def _backtrace(lines: Sequence[str]) -> tuple[StackFrame, ...]:
    found: list[StackFrame] = []
    is_inside = False
    for line, following in zip_longest(lines, lines[1:], fillvalue=""):
        if line.strip().startswith("backtrace:"):
            is_inside = True
        elif is_inside and (frame := _frame(line.rstrip())):
            rest = following.strip()
            whole = _frame(f"{line.rstrip()} {rest}") if rest.startswith("(") else None
            found.append(whole or frame)
        elif found and not line.strip():
            break
    return tuple(found)


def _frame(line: str) -> StackFrame | None:
    if found := _FRAME.match(line):
        build = _BUILD.search(line, found.end(2))
        return StackFrame(
            None, _symbol(found[3]), found[2], int(found[1], 16), build[1] if build else None
        )
    # GrapheneOS's: a module, then in brackets a function if it has a name, and the pc.
    module, bracket, rest = line.strip().partition(" (")
    symbol, _, last = rest.rpartition(", ")
    pc = _PC.fullmatch(last)
    if not line.startswith(" ") or not bracket or pc is None:
        return None
    return StackFrame(None, _symbol(symbol), module, int(pc[1], 16))


def _symbol(text: str | None) -> str | None:
    """Return `name+0x14` for the text's `name+20`."""
    name, plus, offset = (text or "").rpartition("+")
    if plus and offset.isdigit():
        return f"{name}+{int(offset):#x}"
    return text or None
