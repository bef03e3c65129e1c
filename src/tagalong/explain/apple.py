"""Reads Apple's crash reports (.ips) of tag faults, as far as their form is documented.

apple_text has their other form.

The exception, its address, the registers and the frames are read. Tags of memory are in fields
whose form is not documented (mtePageTags): they are named in a note and not read.

Source: xnu, osfmk/arm64/sleh.c and bsd/sys/reason.h for the exception; Apple, "Interpreting the
JSON format of a crash report".
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tagalong.errors import CrashReportError
from tagalong.explain.crash import (
    Allocator,
    AllocatorFacts,
    CheckMode,
    Crash,
    CrashMapping,
    CrashWorld,
    SourceKind,
    StackFrame,
    TagFault,
)
from tagalong.mte.pointers import address_of, logical_tag
from tagalong.printable import one_line

_MAX_FRAMES: Final = 512
_MAX_IMAGES: Final = 1 << 16
MAX_JSON_BYTES: Final = 16 << 20
_TAG_FAULT: Final = "EXC_ARM_MTE_TAGCHECK_FAIL"
_CANONICAL_FAULT: Final = "EXC_ARM_MTE_CANONICAL_FAIL"
_ADDRESS: Final = re.compile(r"0x([0-9a-fA-F]{1,16})")
_UNREAD: Final = ("mtePageTags", "blamedAllocation", "isFreed")

Json = Mapping[str, Any]


def is_apple_report(raw: bytes) -> bool:
    """Return whether a file is one of Apple's reports."""
    return raw.lstrip().startswith(b"{") and (b'"bug_type"' in raw or b'"exception"' in raw)


@dataclass
class AppleFields:
    """What a report of either form says."""

    kind: str
    subtype: str
    process: str | None
    registers: dict[str, int]
    images: list[CrashMapping]
    frames: list[StackFrame]
    notes: tuple[str, ...] = ()


def read_apple(raw: bytes, name: str) -> Crash:
    """Return the crash of a report about a tag fault.

    Raises CrashReportError if it is damaged, or about something else.
    """
    report = _body(raw)
    exception = _object(report.get("exception"))
    thread = _thread(report)
    images = _images(report)
    unread = [key for key in _UNREAD if f'"{key}"'.encode() in raw]
    fields = AppleFields(
        kind=one_line(str(exception.get("type", "unknown"))),
        subtype=one_line(str(exception.get("subtype", ""))),
        process=one_line(str(report.get("procName", ""))) or None,
        registers=_registers(thread),
        images=[image for image in images if image.start < image.end],
        frames=_frames(thread, images, _builds(report)),
        notes=tuple(f"{key} is in the report; its form is not documented." for key in unread),
    )
    return apple_crash(fields, name)


def apple_crash(fields: AppleFields, name: str) -> Crash:
    """Return the crash of a report.

    Raises CrashReportError if its exception is no tag fault, or has no address.
    """
    if _TAG_FAULT not in fields.subtype and _CANONICAL_FAULT not in fields.subtype:
        raise CrashReportError(
            f"this Apple crash report is not of a tag fault: its exception is {fields.kind}, and"
            f" its subtype does not name {_TAG_FAULT}"
        )
    found = _ADDRESS.search(fields.subtype)
    if found is None:
        raise CrashReportError("the exception's subtype has no address")
    pointer = int(found[1], 16)
    return Crash(
        SourceKind.APPLE_REPORT,
        CrashWorld.PROCESS,
        name,
        TagFault(CheckMode.SYNC, fields.subtype, address_of(pointer), logical_tag(pointer)),
        registers=fields.registers or None,
        mappings=tuple(fields.images),
        backtrace=tuple(fields.frames),
        allocator=AllocatorFacts(Allocator.XZONE, "the system that wrote the report"),
        process=fields.process,
        notes=fields.notes,
    )


def _body(raw: bytes) -> Json:
    """Return the report: the second of two JSON documents, or the only one."""
    if len(raw) > MAX_JSON_BYTES:
        raise CrashReportError(
            f"the report is larger than {MAX_JSON_BYTES:#x} bytes: no crash has that much to say",
            offset=MAX_JSON_BYTES,
        )
    text = raw.decode("utf-8", "replace").strip()
    head, _, rest = text.partition("\n")
    for candidate in (rest, text, head):
        try:
            value = json.loads(candidate)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict) and "exception" in value:
            return value
    raise CrashReportError("this is no JSON with an exception in it: the report is cut or damaged")


def _object(value: object) -> Json:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> Sequence[Any]:
    return value if isinstance(value, list) else ()


def _number(value: object) -> int:
    return value & (1 << 64) - 1 if isinstance(value, int) else 0


def _thread(report: Json) -> Json:
    """Return the thread that crashed: it says so itself, or the report has its number."""
    threads = [_object(each) for each in _list(report.get("threads"))]
    triggered = next((each for each in threads if each.get("triggered")), None)
    number = _number(report.get("faultingThread", len(threads)))
    return triggered or (threads[number] if number < len(threads) else {})


def _registers(thread: Json) -> dict[str, int]:
    state = _object(thread.get("threadState"))
    found = {
        f"x{number}": _number(_object(each).get("value"))
        for number, each in enumerate(_list(state.get("x"))[:29])
    }
    for key, name in (("fp", "x29"), ("lr", "x30"), ("sp", "sp"), ("pc", "pc"), ("cpsr", "pstate")):
        if key in state:
            found[name] = _number(_object(state[key]).get("value"))
    return found


def _images(report: Json) -> list[CrashMapping]:
    found = []
    for each in _list(report.get("usedImages"))[:_MAX_IMAGES]:
        image = _object(each)
        start, size = _number(image.get("base")), _number(image.get("size"))
        name = one_line(str(image.get("path") or image.get("name") or "unknown"))
        found.append(CrashMapping(start, start + size, name, 0))
    return found


def _builds(report: Json) -> list[str | None]:
    """Return the build id of each image, as `_images` numbers them."""
    images = [_object(each) for each in _list(report.get("usedImages"))[:_MAX_IMAGES]]
    return [one_line(str(each["uuid"])) if each.get("uuid") else None for each in images]


def _frames(
    thread: Json, images: Sequence[CrashMapping], builds: Sequence[str | None]
) -> list[StackFrame]:
    found = []
    for each in _list(thread.get("frames"))[:_MAX_FRAMES]:
        frame = _object(each)
        number, offset = _number(frame.get("imageIndex")), _number(frame.get("imageOffset"))
        image = images[number] if number < len(images) else None
        symbol = frame.get("symbol")
        location = _number(frame.get("symbolLocation"))
        found.append(
            StackFrame(
                None if image is None else image.start + offset,
                f"{one_line(str(symbol))}+{location:#x}" if symbol else None,
                None if image is None else image.name,
                offset,
                None if image is None else builds[number],
            )
        )
    return found
