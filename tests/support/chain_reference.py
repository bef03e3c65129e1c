"""The walk over a descriptor chain in Python, by the text of section 2.7.5.

The native walk (native/virtio/queue.c) is held against it.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from tagalong.memory import GuestMemory

_DESCRIPTOR = struct.Struct("<QIHH")
_NEXT, _WRITE, _INDIRECT = 1, 2, 4
_MOST_BYTES = 1 << 32


class BrokenRuleError(Exception):
    """The chain breaks a rule."""


@dataclass(frozen=True)
class ReferenceChain:
    """The gpa and size of each buffer; buffers that touch are one."""

    readable: tuple[tuple[int, int], ...]
    writable: tuple[tuple[int, int], ...]


def read_chain(
    memory: GuestMemory, table_gpa: int, size: int, head: int, *, indirect: bool
) -> ReferenceChain:
    """Return the chain that begins with descriptor `head`. Raises BrokenRuleError."""
    if head >= size:
        raise BrokenRuleError
    rows: dict[bool, list[tuple[int, int]]] = {False: [], True: []}
    has_writable, total = False, 0
    for gpa, length, is_writable in _walk(memory, table_gpa, size, head, indirect=indirect):
        total += length
        if (has_writable and not is_writable) or total > _MOST_BYTES:
            raise BrokenRuleError
        _require_ram(memory, gpa, length)
        has_writable |= is_writable and length > 0
        if length:
            rows[is_writable].append((gpa, length))
    return ReferenceChain(joined(rows[False]), joined(rows[True]))


def joined(row: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Return ranges with those that follow each other made one."""
    found: list[tuple[int, int]] = []
    for gpa, length in row:
        if found and sum(found[-1]) == gpa:
            first, before = found.pop()
            found.append((first, before + length))
        else:
            found.append((gpa, length))
    return tuple(found)


def _walk(
    memory: GuestMemory, table_gpa: int, size: int, head: int, *, indirect: bool
) -> Iterator[tuple[int, int, bool]]:
    table, count, index, is_inside = table_gpa, size, head, False
    for _ in range(size + 1):
        entry = memory.read(table + index * _DESCRIPTOR.size, _DESCRIPTOR.size)
        gpa, length, flags, following = _DESCRIPTOR.unpack(entry)
        if flags & _INDIRECT:
            if is_inside or not indirect or flags & _NEXT:
                raise BrokenRuleError
            table, (count, rest) = gpa, divmod(length, _DESCRIPTOR.size)
            if rest or not 1 <= count <= size:
                raise BrokenRuleError
            _require_one_region(memory, gpa, length)
            index, is_inside = 0, True
            continue
        yield gpa, length, bool(flags & _WRITE)
        if not flags & _NEXT:
            return
        if following >= count:
            raise BrokenRuleError
        index = following
    raise BrokenRuleError


def _require_one_region(memory: GuestMemory, gpa: int, length: int) -> None:
    if not any(each.gpa <= gpa and gpa + length <= each.end for each in memory.regions):
        raise BrokenRuleError


def _require_ram(memory: GuestMemory, gpa: int, length: int) -> None:
    at, end = gpa, gpa + length
    for region in memory.regions:
        if at < end and region.gpa <= at < region.end:
            at = min(end, region.end)
    if at < end:
        raise BrokenRuleError
