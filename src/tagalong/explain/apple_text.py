"""Reads Apple's crash reports of tag faults in their form as text, as Console and trackers show it.

Source: Apple, "Examining the fields in a crash report" and "Understanding the exception types".
"""

import re
from collections.abc import Iterator, Sequence
from typing import Final

from tagalong.errors import CrashReportError
from tagalong.explain.apple import AppleFields, apple_crash
from tagalong.explain.crash import Crash, CrashMapping, StackFrame

_MOST_FRAMES: Final = 512
_PROCESS: Final = re.compile(r"Process: +(\S.{0,255}?) \[\d+\]")
_TYPE: Final = re.compile(r"Exception Type: +(\S.*)")
_SUBTYPE: Final = re.compile(r"Exception Subtype: +(\S.*)")
_CRASHED: Final = re.compile(r"Thread \d+(?: name:.*)? [Cc]rashed(?: with ARM Thread State.*)?:")
_FRAME: Final = re.compile(
    r"\d{1,3} {1,8}(\S.{0,127}?)[ \t]{1,64}0x([0-9a-f]{1,16}) (?:(\S.*) \+ (\d{1,18})|.*)$"
)
_REGISTER: Final = re.compile(r"\b(x\d{1,2}|fp|lr|sp|pc|cpsr): +0x([0-9a-f]{16}|[0-9a-f]{8})\b")
_IMAGE: Final = re.compile(r" *0x([0-9a-f]{1,16}) - +0x([0-9a-f]{1,16}) [^/]*(/\S.*)$")
_NAMES: Final = {"fp": "x29", "lr": "x30", "cpsr": "pstate"}


def is_apple_text(raw: bytes) -> bool:
    """Return whether a text is one of Apple's reports."""
    return b"Exception Type:" in raw and b"EXC_" in raw


def read_apple_text(lines: Sequence[str], name: str) -> Crash:
    """Return the crash of a report about a tag fault. Raises CrashReportError for any other."""
    kind, subtype = _first(_TYPE, lines), _first(_SUBTYPE, lines)
    if kind is None:
        raise CrashReportError("it names no type of an exception: the report is cut or damaged")
    images = [*_images(lines)]
    fields = AppleFields(
        kind=kind,
        subtype=subtype or "",
        process=_first(_PROCESS, lines),
        registers=_registers(lines),
        images=images,
        frames=[*_frames(lines, images)],
    )
    return apple_crash(fields, name)


def _first(form: "re.Pattern[str]", lines: Sequence[str]) -> str | None:
    return next((found[1] for line in lines if (found := form.match(line.strip()))), None)


def _frames(lines: Sequence[str], images: Sequence[CrashMapping]) -> Iterator[StackFrame]:
    """Yield the frames of the thread that crashed."""
    count, is_inside = 0, False
    for line in lines:
        if _CRASHED.match(line):
            is_inside = "State" not in line
        elif is_inside and count < _MOST_FRAMES and (found := _FRAME.match(line.strip())):
            pc, count = int(found[2], 16), count + 1
            image = next((each for each in images if each.start <= pc < each.end), None)
            symbol = f"{found[3]}+{int(found[4]):#x}" if found[3] else None
            # A frame without a symbol names the load address of its image instead.
            if symbol is not None and symbol.startswith("0x"):
                symbol = None
            yield StackFrame(pc, symbol, found[1] if image is None else image.name,
                             None if image is None else pc - image.start)  # fmt: skip
        elif is_inside and count:
            return


def _registers(lines: Sequence[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    is_inside = False
    for line in lines:
        if _CRASHED.match(line):
            is_inside = "State" in line
        pairs = _REGISTER.findall(line) if is_inside else []
        if found and not pairs:
            break
        for register, value in pairs:
            found.setdefault(_NAMES.get(register, register), int(value, 16))
    return found


def _images(lines: Sequence[str]) -> Iterator[CrashMapping]:
    is_inside = False
    for line in lines:
        if line.startswith("Binary Images:"):
            is_inside = True
        elif is_inside and (found := _IMAGE.match(line)):
            yield CrashMapping(int(found[1], 16), int(found[2], 16) + 1, found[3], 0)
        elif is_inside and not line.strip():
            return
