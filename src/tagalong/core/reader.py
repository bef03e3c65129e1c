"""Reads cores: of tagalong, of Linux for a process, and of any other writer."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

from tagalong._lazy import module_when_used
from tagalong.binary import elf
from tagalong.binary.layout import MalformedError
from tagalong.core.coverage import Coverage, OwnedRange
from tagalong.core.headers import (
    CoreHeaders,
    data_bytes,
    is_not_written,
    read_headers,
    tagged_bytes,
)
from tagalong.core.machine_note import CoreNotes, decode_machine_note
from tagalong.core.note_types import (
    OWNER_TAGALONG,
    OWNER_VMCOREINFO,
    SegmentType,
    VendorNoteType,
)
from tagalong.core.notes import (
    CoreVcpu,
    Note,
    auxiliary_vector,
    read_notes,
    threads_of,
    vcpu_of,
)
from tagalong.core.regions import CoreRegion, overlay
from tagalong.core.source import FileSource, Source, allocate, is_compressed
from tagalong.core.vmcoreinfo import MAX_BYTES, Vmcoreinfo
from tagalong.errors import (
    AddressError,
    MalformedCoreError,
    NoTagsError,
    NotInCoreError,
)
from tagalong.files import name_failure
from tagalong.memory.extents import file_extents
from tagalong.mte import GRANULE_BYTES, PACKED_RATIO, TAGS_PER_BYTE
from tagalong.mte.pointers import address_of
from tagalong.wire.codec import MAGIC as STREAM_MAGIC

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    import numpy as np
    from numpy.typing import NDArray

    from tagalong.binary.elf import ProgramHeader
    from tagalong.core import compressed
    from tagalong.mte import tags as mte_tags
else:
    compressed = module_when_used("tagalong.core.compressed")
    mte_tags = module_when_used("tagalong.mte.tags")

QEMU_STREAM_MAGIC = b"QEVM"


def open_file(path: Path) -> FileSource:
    """Return the mapped file. Raises HostError if it cannot be opened or mapped."""
    try:
        # Without waiting for a writer at the other end of a FIFO.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        raise name_failure("cannot open", path, error) from error
    try:
        return FileSource(fd, path)
    except BaseException:
        os.close(fd)
        raise


def open_core(path: str | Path) -> Core:
    """Open a core file, plain or compressed, for reading; use it in a `with` statement.

    Memory is served as far as the file goes, also in one that was cut short; what is missing
    raises when it is asked for. Raises HostError if the file cannot be read,
    MalformedCoreError if it is no ELF core of an AArch64 machine or its headers are damaged.

    >>> with open_core("vm.core") as core:  # doctest: +SKIP
    ...     core.tags(0x4000_0000, 0x1000)
    """
    file = open_file(Path(path))
    source: Source = file
    try:
        if is_compressed(file):
            source = compressed.SeekableSource(file)
        return Core(source, read_headers(source))
    except MalformedCoreError as error:
        advice = _what_it_is(file, path)
        source.close()
        raise MalformedCoreError(
            f"{error.reason}{advice}", offset=error.offset, what=f"{path}: {error.what}"
        ) from error
    except BaseException:
        source.close()
        raise


def _what_it_is(file: FileSource, path: str | Path) -> str:
    """Return what a file that is no core is instead and how to use it, "" if unknown."""
    start = bytes(file.raw(0, min(file.size, elf.ELF_HEADER.size)))
    if start.startswith(STREAM_MAGIC):
        return f"; this is a migration stream: load it with `tagalong run --incoming file:{path}`"
    if start.startswith(QEMU_STREAM_MAGIC):
        return f"; QEMU saved a guest to it: make a core of it with `tagalong convert {path} OUT`"
    try:
        kind = elf.read_elf_header(elf.view_of(start), file.size).type
    except MalformedError:
        return ""
    return "" if kind == elf.ET_CORE else "; this is an ELF program or library, give a core"


class Core:
    """An open core. Addresses may be pointers: their top byte is not looked at.

    Arrays are read-only; those of a plain file look into it without a copy where a range
    lies in one segment, and stay valid after `close`. Where segments overlap, the first in
    the file is served, as gdb does (`tagalong check` says where). `loads` and `tag_segments`
    are the program headers of both kinds, in the file's order; `source` has the bytes that
    their offsets mean.
    """

    def __init__(self, source: Source, headers: CoreHeaders) -> None:
        self.source = source
        self.osabi = headers.elf.osabi
        self.headers = headers.segments
        self.loads = self._of_type(SegmentType.PT_LOAD)
        self.tag_segments = self._of_type(SegmentType.PT_AARCH64_MEMTAG_MTE)

    def _of_type(self, kind: SegmentType) -> tuple[ProgramHeader, ...]:
        return tuple(header for header in self.headers if header.type == kind)

    @cached_property
    def _data(self) -> Coverage:
        return Coverage([(h, h.address + data_bytes(h)) for h in self.loads])

    @cached_property
    def _tags(self) -> Coverage:
        return Coverage([(h, h.address + tagged_bytes(h)) for h in self.tag_segments])

    @cached_property
    def _described(self) -> Coverage:
        """Return all memory that the headers name, with bytes in the file or without."""
        return Coverage([(h, h.end) for h in (*self.loads, *self.tag_segments)])

    @cached_property
    def regions(self) -> tuple[CoreRegion, ...]:
        """Return what there is of data and tags, in order, neighbours of one kind joined."""
        return tuple(overlay(self._data.pieces, self._tags.pieces))

    def data(self, address: int, length: int) -> NDArray[np.uint8]:
        """Return `length` bytes of memory from `address` on, shape (length,).

        Raises NotInCoreError if the core does not have all of it, MalformedCoreError if it
        does not because the file was cut short; AddressError for a negative number.
        """
        start = _entry(address, length)
        pieces = list(self._data.cover(start, start + length))
        self._require_all(pieces, start, start + length)
        return self._gather(
            [(p.owner.offset + p.start - p.owner.address, p.stop - p.start) for p in pieces]
        )

    def tags(self, address: int, length: int) -> NDArray[np.uint8]:
        """Return the packed allocation tags of a range, shape (length / 32,).

        `address` and `length`: multiples of 32 bytes (`granule_tags` takes any granules).
        Raises NoTagsError if the core does not have all of them: absent tags are not zero;
        NotInCoreError if it does not have the memory either.
        Raises MalformedCoreError if the file was cut short or a tag segment does not start
        at a granule; AddressError for a misaligned range.
        """
        start = _entry(address, length, PACKED_RATIO)
        pieces = self._tag_pieces(start, start + length)
        if any(p.start % PACKED_RATIO or p.stop % PACKED_RATIO for p in pieces) or any(
            p.owner.address % PACKED_RATIO for p in pieces
        ):  # a byte of the file has a granule of this range and one of another
            packed = mte_tags.pack(self._unpacked(pieces))
            packed.flags.writeable = False
            return packed
        return self._gather([_tag_bytes(piece) for piece in pieces])

    def require_data(self, address: int, length: int) -> None:
        """Raise as `data` if the core does not have all of a range; read nothing of it."""
        start = _entry(address, length)
        pieces = list(self._data.cover(start, start + length))
        self._require_all(pieces, start, start + length)

    def granule_tags(self, address: int, length: int) -> NDArray[np.uint8]:
        """Return the allocation tags of a range one a byte, shape (length / 16,), as a copy.

        `address` and `length`: multiples of 16. Raises as `tags`.
        """
        start = _entry(address, length, GRANULE_BYTES)
        return self._unpacked(self._tag_pieces(start, start + length))

    def require_tags(self, address: int, length: int) -> None:
        """Raise what `granule_tags` would raise for this range, without reading it."""
        start = _entry(address, length, GRANULE_BYTES)
        self._tag_pieces(start, start + length)

    def stored_data(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Yield the parts [start, stop) of a range whose data are there and no hole of the file.

        In ascending order. What of the core's memory is in none of them is zero. Reads no
        content. Raises HostError if the host cannot tell where holes are.
        """
        return self._stored(self._data.cover(start, stop), 1)

    def stored_tags(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Yield the parts of a range whose tags are there and no hole, as `stored_data`."""
        return self._stored(self._tags.cover(start, stop), PACKED_RATIO)

    def _stored(self, pieces: Iterator[OwnedRange], ratio: int) -> Iterator[tuple[int, int]]:
        """`ratio`: bytes of memory for each byte of the file."""
        for piece in pieces:
            if self.source.fd is None:
                yield piece.start, piece.stop
                continue
            base = piece.owner.address - piece.owner.offset * ratio
            first = (piece.start - base) // ratio
            last = -(-(piece.stop - base) // ratio)
            for low, high in file_extents(self.source.fd, first, last, "the core"):
                yield max(base + low * ratio, piece.start), min(base + high * ratio, piece.stop)

    @cached_property
    def notes(self) -> tuple[Note, ...]:
        """Return all notes. Raises MalformedCoreError for damaged ones or a file cut short."""
        return tuple(read_notes(self.source, self.headers))

    @cached_property
    def vcpus(self) -> tuple[CoreVcpu, ...]:
        """Return the registers of each vCPU or thread. Raises MalformedCoreError."""
        return tuple(vcpu_of(thread) for thread in threads_of(self.notes))

    @cached_property
    def auxiliary_vector(self) -> dict[int, int] | None:
        """Return AT_* values by number, None if there is no NT_AUXV. Raises MalformedCoreError."""
        return auxiliary_vector(self.notes)

    @cached_property
    def machine(self) -> CoreNotes | None:
        """Return the machine that a core of tagalong holds, None in a core of another writer.

        Raises MalformedCoreError if the note about it is damaged or of a newer version.
        """
        for note in self.notes:
            if (note.owner, note.type) == (
                OWNER_TAGALONG,
                VendorNoteType.MACHINE,
            ):
                try:
                    return decode_machine_note(note.content)
                except MalformedError as error:
                    raise MalformedCoreError(
                        str(error), offset=note.content_at + error.offset
                    ) from error
        return None

    @cached_property
    def vmcoreinfo(self) -> Vmcoreinfo | None:
        """Return what the Linux kernel in the core says about itself, None without such a note.

        Raises MalformedCoreError if the note makes no sense.
        """
        for note in self.notes:
            # As drgn and crash do, whatever the number of its type.
            if note.owner == OWNER_VMCOREINFO:
                try:
                    return Vmcoreinfo.parse(note.content[: MAX_BYTES + 1].tobytes())
                except MalformedError as error:
                    raise MalformedCoreError(
                        str(error), offset=note.content_at + error.offset
                    ) from error
        return None

    def close(self) -> None:
        """Close the file. Safe to call twice; reading raises RunStateError then."""
        self.source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _gather(self, places: list[tuple[int, int]]) -> NDArray[np.uint8]:
        """Return bytes from places (offset, size) of the file, one after the other."""
        if len(places) == 1:
            return self.source.view(*places[0])
        joined, done = allocate(sum(size for _, size in places)), 0
        for offset, size in places:
            joined[done : done + size] = self.source.view(offset, size)
            done += size
        joined.flags.writeable = False
        return joined

    def _tag_pieces(self, start: int, stop: int) -> list[OwnedRange]:
        pieces = list(self._tags.cover(start, stop))
        missing = _first_gap(pieces, start, stop)
        if missing is not None:
            self._refuse_cut(self.tag_segments, missing)
            raise self._no_tags(missing)
        for piece in pieces:
            if piece.owner.address % GRANULE_BYTES:
                raise MalformedCoreError(
                    f"a tag segment for {piece.owner.address:#x} does not start at a granule",
                    offset=piece.owner.at + elf.PROGRAM_HEADER.offsets["p_vaddr"],
                )
        return pieces

    def _no_tags(self, address: int) -> NoTagsError | NotInCoreError:
        """Return why there are no tags for an address: three different things."""
        segment = next(iter(self._described.cover(address, address + 1)), None)
        if segment is None:
            return NotInCoreError("the core has no memory here", address=address)
        if any(h.address <= address < h.end for h in self.tag_segments if is_not_written(h)):
            return NoTagsError(
                "this memory had tags, but they were not written to the core", address=address
            )
        return NoTagsError("the core has no tags for this memory", address=address)

    def _unpacked(self, pieces: list[OwnedRange]) -> NDArray[np.uint8]:
        """Return the tags of pieces that are whole granules, one a byte."""
        tags = allocate(sum(piece.stop - piece.start for piece in pieces) // GRANULE_BYTES)
        done = 0
        for piece in pieces:
            first = (piece.start - piece.owner.address) // GRANULE_BYTES
            stop = (piece.stop - piece.owner.address) // GRANULE_BYTES
            byte, skipped = divmod(first, TAGS_PER_BYTE)
            packed = self.source.view(piece.owner.offset + byte, -(-stop // TAGS_PER_BYTE) - byte)
            tags[done : done + stop - first] = mte_tags.unpack(packed)[
                skipped : skipped + stop - first
            ]
            done += stop - first
        return tags

    def _require_all(self, pieces: list[OwnedRange], start: int, stop: int) -> None:
        missing = _first_gap(pieces, start, stop)
        if missing is None:
            return
        self._refuse_cut(self.loads, missing)
        segment = next((h for h in self.loads if h.address <= missing < h.end), None)
        raise NotInCoreError(
            "the core has no memory here"
            if segment is None
            else f"memory of the segment at {segment.address:#x} that was not written "
            f"to the core: {segment.file_bytes:#x} of {segment.size_bytes:#x} bytes were",
            address=missing,
        )

    @cached_property
    def _is_cut(self) -> bool:
        return any(header.is_cut for header in self.headers)

    def _refuse_cut(self, segments: tuple[ProgramHeader, ...], address: int) -> None:
        """Raise if `address` is missing because the file ends too early."""
        ratio = PACKED_RATIO if segments is self.tag_segments else 1
        for header in segments if self._is_cut else ():
            claimed = min(header.size_bytes, header.file_bytes * ratio)
            if header.is_cut and header.address <= address < header.address + claimed:
                raise MalformedCoreError(
                    f"the file was cut short at {self.source.size:#x}: "
                    f"{'the tags of' if ratio > 1 else ''} address {address:#x} should be at "
                    f"{header.offset + (address - header.address) // ratio:#x}",
                    offset=self.source.size,
                )


def _entry(address: int, length: int, alignment: int = 1) -> int:
    """Return the address without its top byte, after the checks that every range passes."""
    if length < 0 or address < 0 or address >> 64:
        raise AddressError(f"[{address:#x} + {length:#x}) is not a range of 64-bit addresses")
    for what, value in (("address", address), ("length", length)):
        if value % alignment:
            raise AddressError(f"{what} {value:#x} is not a multiple of {alignment:#x}")
    return address_of(address)


def _first_gap(pieces: list[OwnedRange], start: int, stop: int) -> int | None:
    """Return the first address of [start, stop) that no piece covers."""
    for piece in pieces:
        if piece.start > start:
            return start
        start = piece.stop
    return start if start < stop else None


def _tag_bytes(piece: OwnedRange) -> tuple[int, int]:
    """Return offset and size in the file of a piece's tags."""
    first = (piece.start - piece.owner.address) // PACKED_RATIO
    return piece.owner.offset + first, (piece.stop - piece.start) // PACKED_RATIO
