"""Asks gdb, lldb and readelf about a core, in batch."""

import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from tests.support.fetch_debuggers import GDB, LLDB, READELF, Debugger, run

_TAG_RANGE = re.compile(r"\[(0x[0-9a-f]+), 0x[0-9a-f]+\): (0x[0-9a-f]+)")
_GDB_TAG_AT = re.compile(r"^@(0x[0-9a-f]+)\n\$\d+ = (0x[0-9a-f]+)$", re.MULTILINE)
_GDB_TAG = re.compile(r"^\$\d+ = (0x[0-9a-f]+)$", re.MULTILINE)


@cache
def _command(debugger: Debugger) -> tuple[str, ...]:
    return tuple(debugger.find())


def gdb(core: Path, commands: Iterable[str]) -> str:
    """Return what gdb says to `commands` on a core, without any setting."""
    arguments = [part for each in (f"core-file {core}", *commands) for part in ("-ex", each)]
    return run([*_command(GDB), "-nx", "-batch", *arguments])


def lldb(core: Path, commands: Iterable[str]) -> str:
    """Return what lldb says to `commands` on a core; it stops at the first that fails."""
    given = (f"target create --core {core}", *commands)
    arguments = [part for each in given for part in ("-o", each)]
    return run([*_command(LLDB), "--no-lldbinit", "--batch", *arguments])


def readelf(core: Path) -> str:
    """Return what readelf says about headers and notes of a core, its complaints included."""
    return run([*_command(READELF), "--file-header", "--segments", "--notes", "--wide", str(core)])


def gdb_tags(core: Path, addresses: Iterable[int]) -> list[int]:
    """Return the allocation tags that gdb shows, one for each address that has one."""
    said = gdb(core, [f"memory-tag print-allocation-tag (char*){each:#x}" for each in addresses])
    return [int(tag, 16) for tag in _GDB_TAG.findall(said)]


def gdb_tags_by_address(core: Path, addresses: Iterable[int]) -> dict[int, int]:
    """Return the allocation tags that gdb shows, by address; those without one are missing."""
    commands = []
    for each in addresses:
        commands += [f"echo @{each:#x}\\n", f"memory-tag print-allocation-tag (char*){each:#x}"]
    said = gdb(core, commands)
    return {int(at, 16): int(tag, 16) for at, tag in _GDB_TAG_AT.findall(said)}


def lldb_tags(core: Path, start: int, end: int) -> dict[int, int]:
    """Return the tags that lldb shows for [start, end), by the granule's address."""
    said = lldb(core, [f"memory tag read {start:#x} {end:#x}"])
    return {int(at, 16): int(tag, 16) for at, tag in _TAG_RANGE.findall(said)}
