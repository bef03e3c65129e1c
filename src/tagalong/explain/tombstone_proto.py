"""Reads Android tombstones in their protobuf form.

Only the fields that say something about tags are read; all else is passed over. The wire format is
read as hostile input: lengths are checked before anything is taken, and nothing is nested deeper
than the form is.

Source: AOSP system/core, debuggerd/proto/tombstone.proto; Protocol Buffers, "Encoding".
"""

from collections.abc import Iterator
from typing import Final

import numpy as np

from tagalong.errors import CrashReportError
from tagalong.explain.crash import Crash, CrashMapping, StackFrame
from tagalong.explain.memory import ShownMemory
from tagalong.explain.tombstone import TombstoneCause, TombstoneFields, crash_of
from tagalong.mte import GRANULE_BYTES, TAG_MASK
from tagalong.mte.pointers import address_of
from tagalong.printable import one_line

MAX_FIELDS: Final = 1 << 20
"""Of a tombstone in all, in messages of any depth."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_VARINT_BYTES: Final = 10
_TID, _PID, _COMMAND_LINE, _SIGNAL, _CAUSES, _THREADS, _MAPPINGS = 6, 5, 9, 10, 15, 16, 17

Value = int | bytes


class FieldBudget:
    """How many fields may still be read of one tombstone."""

    def __init__(self) -> None:
        self._left = MAX_FIELDS

    def take(self, offset: int) -> None:
        """Count a field. Raises CrashReportError if there are too many."""
        self._left -= 1
        if self._left < 0:
            raise CrashReportError(
                f"it has more than {MAX_FIELDS:#x} fields: not a tombstone", offset=offset
            )


class Message:
    """The fields of one message by number, each with its values in order.

    `base` is where it begins in the file; all messages of a file share one `budget`.
    """

    def __init__(self, raw: bytes, base: int = 0, budget: FieldBudget | None = None) -> None:
        self._budget = budget or FieldBudget()
        self._fields: dict[int, list[tuple[Value, int]]] = {}
        for number, value, at in _fields_of(raw, base, self._budget):
            self._fields.setdefault(number, []).append((value, at))

    def number(self, field: int, default: int = 0) -> int:
        """Return the last value of a numeric field."""
        values = [value for value, _ in self._fields.get(field, ()) if isinstance(value, int)]
        return values[-1] if values else default

    def has(self, field: int) -> bool:
        """Return whether the field is there."""
        return field in self._fields

    def raw(self, field: int) -> bytes:
        """Return the last value of a field of bytes."""
        values = [value for value, _ in self._fields.get(field, ()) if isinstance(value, bytes)]
        return values[-1] if values else b""

    def text(self, field: int) -> str:
        """Return a field of text, as it may be shown."""
        return one_line(self.raw(field).decode("utf-8", "replace"))

    def texts(self, field: int) -> list[str]:
        """Return all values of a field of text."""
        return [
            one_line(value.decode("utf-8", "replace"))
            for value, _ in self._fields.get(field, ())
            if isinstance(value, bytes)
        ]

    def messages(self, field: int) -> Iterator["Message"]:
        """Yield the messages in a field. Raises CrashReportError for damaged ones."""
        for value, at in self._fields.get(field, ()):
            if isinstance(value, bytes):
                yield Message(value, at, self._budget)

    def message(self, field: int) -> "Message | None":
        """Return the last message in a field, None if there is none."""
        found = [*self.messages(field)]
        return found[-1] if found else None


def _fields_of(raw: bytes, base: int, budget: FieldBudget) -> Iterator[tuple[int, Value, int]]:
    at = 0
    while at < len(raw):
        start = at
        key, at = _varint(raw, at, base)
        number, kind = key >> 3, key & 7
        value: Value
        if kind == _VARINT:
            value, at = _varint(raw, at, base)
        elif kind in (_FIXED64, _FIXED32):
            size = 8 if kind == _FIXED64 else 4
            value, at = int.from_bytes(_take(raw, at, size, base), "little"), at + size
        elif kind == _BYTES:
            size, at = _varint(raw, at, base)
            value, at = _take(raw, at, size, base), at + size
        else:
            raise CrashReportError(f"a field of wire type {kind} is not possible",
                                   offset=base + start)  # fmt: skip
        budget.take(base + start)
        if not number:
            raise CrashReportError("field number 0: not a tombstone", offset=base + start)
        yield number, value, base + at - (len(value) if isinstance(value, bytes) else 0)


def _varint(raw: bytes, at: int, base: int) -> tuple[int, int]:
    value = 0
    for place in range(_MAX_VARINT_BYTES):
        if at + place >= len(raw):
            break
        byte = raw[at + place]
        value |= (byte & 0x7F) << 7 * place
        if not byte & 0x80:
            return value & (1 << 64) - 1, at + place + 1
    raise CrashReportError("a number does not end", offset=base + at)


def _take(raw: bytes, at: int, size: int, base: int) -> bytes:
    if size > len(raw) - at:
        raise CrashReportError(
            f"a field of {size:#x} bytes, but {len(raw) - at:#x} are left", offset=base + at
        )
    return raw[at : at + size]


def is_tombstone_proto(raw: bytes) -> bool:
    """Return whether bytes can be a tombstone: all fields parse, and there is a signal."""
    try:
        return Message(raw).message(_SIGNAL) is not None
    except CrashReportError:
        return False


def read_tombstone_proto(raw: bytes, name: str) -> Crash:
    """Return the crash of a tombstone. Raises CrashReportError if it is damaged."""
    top = Message(raw)
    signal = top.message(_SIGNAL)
    if signal is None:
        raise CrashReportError("it has no field about the signal: this is no tombstone")
    fields = TombstoneFields(
        signal=signal.number(1),
        code=_signed(signal.number(3)),
        code_name=signal.text(4) or f"code {_signed(signal.number(3))}",
        address=signal.number(9) if signal.number(8) else None,
        process=" ".join(top.texts(_COMMAND_LINE)) or None,
        thread=top.number(_TID) or None,
    )
    fields.mappings = [*_mappings(top)]
    fields.causes = [_cause(each) for each in top.messages(_CAUSES)]
    thread = _thread(top)
    if thread is not None:
        fields.control = thread.number(6) if thread.has(6) else None
        fields.registers = {
            _REGISTERS.get(r.text(1), r.text(1)): r.number(2) for r in thread.messages(3)
        }
        fields.backtrace = tuple(_frame(each) for each in thread.messages(4))
        fields.windows = [_window(each) for each in thread.messages(5)]
    adjacent = signal.message(10)
    if adjacent is not None:
        fields.windows.append(_window(adjacent))
    return crash_of(fields, name)


_REGISTERS: Final = {"lr": "x30", "pst": "pstate"}


def _thread(top: Message) -> Message | None:
    """Return the thread that crashed: `threads` is a map from its number."""
    wanted = top.number(_TID)
    for entry in top.messages(_THREADS):
        if entry.number(1) == wanted:
            return entry.message(2)
    return None


def _mappings(top: Message) -> Iterator[CrashMapping]:
    for each in top.messages(_MAPPINGS):
        start, end, name = each.number(1), each.number(2), each.text(7)
        if start < end:
            yield CrashMapping(start, end, name, each.number(3) if name.startswith("/") else None)


def _frame(each: Message) -> StackFrame:
    symbol, offset = each.text(4), each.number(5)
    return StackFrame(
        each.number(2) or None,
        f"{symbol}+{offset:#x}" if symbol else None,
        each.text(6) or None,
        each.number(1),
        each.text(8) or None,
    )


def _window(each: Message) -> ShownMemory:
    """Return a dump: data, and tags of one byte each."""
    address, raw = address_of(each.number(3)), each.raw(4)
    metadata = each.message(6)
    tags = each.raw(5) if metadata is None else metadata.raw(1)
    known = np.frombuffer(tags, np.uint8).astype(np.int16) & TAG_MASK if tags else None
    return ShownMemory(address // GRANULE_BYTES * GRANULE_BYTES, raw or None, known)


def _cause(each: Message) -> TombstoneCause:
    found = TombstoneCause(each.text(1))
    error = each.message(2)
    heap = None if error is None else error.message(3)
    if heap is not None:
        found.allocated_by = [_frame(frame) for frame in heap.messages(4)]
        found.freed_by = [_frame(frame) for frame in heap.messages(6)]
        found.allocating_thread = heap.number(3) or None
        found.freeing_thread = heap.number(5) or None
    return found


def _signed(value: int) -> int:
    """Return an int32, which the wire holds in 64 bits."""
    return value - (1 << 64) if value >> 63 else value
