"""Programs and libraries of a crash, as files: instructions that the core lacks, and symbols.

Linux writes no code to a core unless coredump_filter asks for it. A file is used only if its first
page is the one in the core, or if the user named the folder that it is in.

Source: System V ABI, chapter 4, "Sections" and "Symbol Table", chapter 5, "Note Section"; GNU ld,
--build-id.
"""

import mmap
import os
import stat
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from tagalong.binary.layout import Layout
from tagalong.explain.crash import CrashMapping, CrashMemory
from tagalong.printable import one_line

_IDENT: Final = b"\x7fELF\x02\x01"
_HEADER = Layout(
    ("ident", 16), ("type", "u16"), ("machine", "u16"), ("version", "u32"), ("entry", "u64"),
    ("phoff", "u64"), ("shoff", "u64"), ("flags", "u32"), ("ehsize", "u16"), ("phentsize", "u16"),
    ("phnum", "u16"), ("shentsize", "u16"), ("shnum", "u16"), ("shstrndx", "u16"),
)  # fmt: skip
_SEGMENT = np.dtype(
    [("type", "<u4"), ("flags", "<u4"), ("offset", "<u8"), ("address", "<u8"), ("physical", "<u8"),
     ("file_bytes", "<u8"), ("size", "<u8"), ("align", "<u8")]
)  # fmt: skip
_SECTION = np.dtype(
    [("name", "<u4"), ("type", "<u4"), ("flags", "<u8"), ("address", "<u8"), ("offset", "<u8"),
     ("size", "<u8"), ("link", "<u4"), ("info", "<u4"), ("align", "<u8"), ("entry", "<u8")]
)  # fmt: skip
_SYMBOL = np.dtype(
    [("name", "<u4"), ("info", "u1"), ("other", "u1"), ("section", "<u2"), ("value", "<u8"),
     ("size", "<u8")]
)  # fmt: skip
_NOTE = Layout(("name_bytes", "u32"), ("content_bytes", "u32"), ("type", "u32"))
_SYMTAB, _DYNSYM, _PT_LOAD, _PT_NOTE, _STT_FUNC, _AARCH64 = 2, 11, 1, 4, 2, 183
_NT_GNU_BUILD_ID: Final = 3
_MAX_BUILD_ID: Final = 64
_MAX_SYMBOLS: Final = 1 << 21
_MAX_NAME: Final = 512
_COMPARED_BYTES: Final = 4096
_MOST_OPEN: Final = 64


class Modules:
    """The files of a crash's mappings. Files that cannot be used count as absent."""

    def __init__(
        self, memory: CrashMemory, mappings: Sequence[CrashMapping], folder: Path | None = None
    ) -> None:
        self._memory = memory
        self._mappings = mappings
        self._folder = folder
        self._opened: dict[str, ModuleFile | None] = {}
        self._builds: dict[str, str | None] = {}

    def code(self, address: int, length: int) -> bytes | None:
        """Return code at an address from the module's file, None if there is none."""
        place = self._place(address)
        return None if place is None else place[0].bytes_at(place[1], length)

    def symbol(self, address: int) -> str | None:
        """Return the function at an address as `name+0x10`, None if it has no name."""
        place = self._place(address)
        return None if place is None else place[0].symbol_at(place[1])

    def build_id(self, name: str) -> str | None:
        """Return the build id of a mapped file, None if its first page is not known."""
        if name not in self._builds:
            page = self._first_page(name)
            self._builds[name] = None if page is None else build_id_of(page)
        return self._builds[name]

    def _first_page(self, name: str) -> bytes | None:
        """Return the first page of a mapped file, as the process had it."""
        first = next((m for m in self._mappings if m.name == name and m.file_offset == 0), None)
        return None if first is None else self._memory.data(first.start, _COMPARED_BYTES)

    def _place(self, address: int) -> "tuple[ModuleFile, int] | None":
        for mapping in self._mappings:
            if mapping.start <= address < mapping.end and mapping.file_offset is not None:
                module = self._module(mapping.name)
                if module is None:
                    return None
                return module, address - mapping.start + mapping.file_offset
        return None

    def _module(self, name: str) -> "ModuleFile | None":
        if name not in self._opened and len(self._opened) < _MOST_OPEN:
            self._opened[name] = self._open(name)
        return self._opened.get(name)

    def _open(self, name: str) -> "ModuleFile | None":
        seen = self._first_page(name)
        for path in self._candidates(name):
            module = ModuleFile.open(path)
            if module is None:
                continue
            if seen is None and self._folder is not None:
                return module
            if seen is not None and module.bytes_at(0, _COMPARED_BYTES) == seen:
                return module
        return None

    def _candidates(self, name: str) -> list[Path]:
        if self._folder is None:
            return [Path(name)] if name.startswith("/") else []
        relative = name.lstrip("/")
        return [self._folder / relative, self._folder / Path(relative).name]


class ModuleFile:
    """One ELF file for AArch64, mapped."""

    def __init__(self, content: mmap.mmap, header: dict[str, int]) -> None:
        self._content = content
        self._header = header
        self._starts: list[int] | None = None
        self._symbols: list[tuple[int, int, int]] = []
        self._names = (0, 0)

    @classmethod
    def open(cls, path: Path) -> "ModuleFile | None":
        """Return the file, None if it cannot be read or is nothing of the kind."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (OSError, ValueError):
            return None
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode) or status.st_size < _HEADER.size:
                return None
            content = mmap.mmap(fd, status.st_size, mmap.MAP_PRIVATE, mmap.PROT_READ)
        except OSError:
            return None
        finally:
            os.close(fd)
        header = _HEADER.unpack(content[: _HEADER.size])
        if not header["ident"].startswith(_IDENT) or header["machine"] != _AARCH64:
            return None
        return cls(content, header)

    def bytes_at(self, offset: int, length: int) -> bytes | None:
        """Return bytes of the file, None if it is too short."""
        found = self._content[offset : offset + length] if offset >= 0 else b""
        return found if len(found) == length else None

    def symbol_at(self, offset: int) -> str | None:
        """Return the function that holds a byte of the file, with the offset in it."""
        address = self._address_of(offset)
        if address is None:
            return None
        if self._starts is None:
            self._read_symbols()
            self._starts = [start for start, _, _ in self._symbols]
        number = bisect_right(self._starts, address) - 1
        if number < 0:
            return None
        start, size, name = self._symbols[number]
        if address >= start + max(size, 1):
            return None
        return f"{self._name(name)}+{address - start:#x}"

    def _table(
        self, at: int, count: int, kind: "np.dtype[np.void]"
    ) -> "np.ndarray[tuple[int], np.dtype[np.void]] | None":
        if at <= 0 or at + count * kind.itemsize > len(self._content):
            return None
        return np.frombuffer(self._content, kind, count, at)

    def _address_of(self, offset: int) -> int | None:
        table = self._table(self._header["phoff"], self._header["phnum"], _SEGMENT)
        if table is None:
            return None
        for segment in table[table["type"] == _PT_LOAD]:
            start = int(segment["offset"])
            if start <= offset < start + int(segment["file_bytes"]):
                return offset - start + int(segment["address"])
        return None

    def _read_symbols(self) -> None:
        sections = self._table(self._header["shoff"], self._header["shnum"], _SECTION)
        if sections is None:
            return
        for kind in (_SYMTAB, _DYNSYM):
            for section in sections[sections["type"] == kind]:
                count = int(section["size"]) // _SYMBOL.itemsize
                link = int(section["link"])
                symbols = self._table(int(section["offset"]), count, _SYMBOL)
                if symbols is None or count > _MAX_SYMBOLS or link >= sections.size:
                    continue
                self._names = (int(sections[link]["offset"]), int(sections[link]["size"]))
                functions = symbols[(symbols["info"] & 0xF == _STT_FUNC) & (symbols["section"] > 0)]
                self._symbols = sorted(
                    zip(*(functions[f].tolist() for f in ("value", "size", "name")), strict=True)
                )
                return

    def _name(self, at: int) -> str:
        start, size = self._names
        stop = start + min(size, at + _MAX_NAME)
        raw = self._content[start + at : stop].split(b"\0")[0]
        return one_line(raw.decode("utf-8", "replace"))


def build_id_of(page: bytes) -> str | None:
    """Return the build id in the first page of an ELF file as hex digits, None without one.

    Linkers put it behind the headers, and Linux dumps that page of each mapped file
    (coredump_filter, bit 4).
    """
    if len(page) < _HEADER.size or not page.startswith(_IDENT):
        return None
    header = _HEADER.unpack(page[: _HEADER.size])
    at, count = header["phoff"], min(header["phnum"], len(page) // _SEGMENT.itemsize)
    if at + count * _SEGMENT.itemsize > len(page):
        return None
    for segment in np.frombuffer(page, _SEGMENT, count, at):
        if segment["type"] == _PT_NOTE:
            start = int(segment["offset"])
            found = _build_note(page[start : start + int(segment["file_bytes"])])
            if found is not None:
                return found
    return None


def _build_note(notes: bytes) -> str | None:
    at = 0
    while at + _NOTE.size <= len(notes):
        note = _NOTE.unpack(notes[at : at + _NOTE.size])
        name_at = at + _NOTE.size
        content_at = name_at + -(-note["name_bytes"] // 4) * 4
        name = notes[name_at : name_at + note["name_bytes"]]
        content = notes[content_at : content_at + note["content_bytes"]]
        if note["type"] == _NT_GNU_BUILD_ID and name == b"GNU\0" and content:
            return content[:_MAX_BUILD_ID].hex()
        at = content_at + -(-note["content_bytes"] // 4) * 4
    return None
