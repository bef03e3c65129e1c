"""Where in the file everything of a core goes, decided before the first byte is written.

    ELF header, program headers | notes | data of each segment | tags of each segment

Data and tags begin at multiples of the machine's page size, so that both planes of a region
can be mapped. The notes hold registers, which are known last, so that a snapshot of a running
machine can replace pages in place until then. Room for them is left in front, where crash looks for
them; notes that do not fit come last instead.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from tagalong.binary import elf
from tagalong.core.headers import MAX_PROGRAM_HEADERS
from tagalong.core.note_types import SegmentType
from tagalong.errors import UsageError
from tagalong.memory import Gpa
from tagalong.mte import PACKED_RATIO, PAGE_SIZES_BYTES

_ADDRESS_SPACE_END = 1 << 64


@dataclass(frozen=True)
class CoreSegment:
    """A range of memory in a core: one PT_LOAD, and one tag segment if `has_tags`.

    `address`: what the core is keyed by (p_vaddr), a gpa in a physical core, else a virtual
    address without tag bits. `physical`: the gpa behind it (p_paddr). All three numbers are
    multiples of the page size.
    """

    address: int
    physical: Gpa
    size_bytes: int
    has_tags: bool

    @property
    def end(self) -> int:
        """Return the first address behind the segment."""
        return self.address + self.size_bytes


@dataclass(frozen=True)
class Place:
    """Where a segment's planes begin in the file; `tags` is None if it has none."""

    data: int
    tags: int | None


class CorePlan:
    """The file offsets of a core with these segments; `notes_room_bytes` are left for the notes.

    Raises UsageError for a page size or a segment that cannot be, for more segments than a
    reader accepts, and for two segments that overlap in their addresses (two may show the same
    physical memory).
    """

    def __init__(
        self, segments: Sequence[CoreSegment], page_size_bytes: int, notes_room_bytes: int = 0
    ) -> None:
        _check_segments(segments, page_size_bytes)
        self.segments = tuple(segments)
        self.page_size_bytes = page_size_bytes
        self.header_count = 1 + sum(2 if segment.has_tags else 1 for segment in segments)
        if self.header_count > MAX_PROGRAM_HEADERS:
            raise UsageError(
                f"a core of {self.header_count:#x} program headers: {MAX_PROGRAM_HEADERS:#x} are "
                "possible"
            )
        headers_end = elf.ELF_HEADER.size + self.header_count * elf.PROGRAM_HEADER.size
        self._room = range(headers_end, self._page_up(headers_end + notes_room_bytes))
        data, end = self._row(self._room.stop, [segment.size_bytes for segment in segments])
        tag_sizes = [s.size_bytes // PACKED_RATIO if s.has_tags else 0 for s in segments]
        tags, end = self._row(end, tag_sizes)
        self.planes_end = end
        self._end = self._page_up(end)
        self._has_room = notes_room_bytes > 0
        self.places = tuple(
            Place(at, tags_at if segment.has_tags else None)
            for segment, at, tags_at in zip(segments, data, tags, strict=True)
        )

    def _row(self, start: int, sizes: Sequence[int]) -> tuple[list[int], int]:
        """Return page-aligned offsets for parts of these sizes, and the end of the last."""
        offsets = []
        for size in sizes:
            if size:
                start = self._page_up(start)
            offsets.append(start)
            start += size
        return offsets, start

    def _page_up(self, offset: int) -> int:
        return elf.align_up(offset, self.page_size_bytes)

    def notes_offset(self, notes_bytes: int) -> int:
        """Return where the notes go: in front if they fit into the room for them, else last."""
        fits = self._has_room and notes_bytes <= len(self._room)
        return self._room.start if fits else self._end

    def headers(self, notes_bytes: int) -> bytes:
        """Return the ELF header and all program headers of a file with so many note bytes."""
        many = self.header_count >= elf.PN_XNUM
        header = elf.ElfHeader.new(
            kind=elf.ET_CORE,
            machine=elf.EM_AARCH64,
            phnum=self.header_count,
            shoff=self.section_header_offset(notes_bytes) if many else 0,
        )
        return header.pack() + b"".join(self._program_headers(notes_bytes))

    def section_header_offset(self, notes_bytes: int) -> int:
        """Return where the section header is in a file with PN_XNUM."""
        return elf.align_up(max(self._end, self.notes_offset(notes_bytes) + notes_bytes), 8)

    def section_header(self) -> bytes:
        """Return section header 0 if there are too many program headers for e_phnum, else b''."""
        if self.header_count < elf.PN_XNUM:
            return b""
        fields = dict.fromkeys((name for name, _ in elf.SECTION_HEADER.fields), 0)
        return elf.SECTION_HEADER.pack(**{**fields, "sh_info": self.header_count})

    def _program_headers(self, notes_bytes: int) -> Iterator[bytes]:
        notes_offset = self.notes_offset(notes_bytes)
        # crash takes a core whose first PT_LOAD says that it is aligned for one of the old netdump.
        alignment = 0 if notes_offset < self._end else self.page_size_bytes
        yield elf.PROGRAM_HEADER.pack(
            p_type=SegmentType.PT_NOTE, p_flags=0, p_offset=notes_offset, p_vaddr=0,
            p_paddr=0, p_filesz=notes_bytes, p_memsz=0, p_align=elf.NOTE_ALIGNMENT,
        )  # fmt: skip
        for segment, place in zip(self.segments, self.places, strict=True):
            yield elf.PROGRAM_HEADER.pack(
                p_type=SegmentType.PT_LOAD, p_flags=elf.PF_RWX, p_offset=place.data,
                p_vaddr=segment.address, p_paddr=segment.physical,
                p_filesz=segment.size_bytes, p_memsz=segment.size_bytes,
                p_align=alignment,
            )  # fmt: skip
        for segment, place in zip(self.segments, self.places, strict=True):
            if place.tags is not None:
                yield elf.PROGRAM_HEADER.pack(
                    p_type=SegmentType.PT_AARCH64_MEMTAG_MTE, p_flags=0, p_offset=place.tags,
                    p_vaddr=segment.address, p_paddr=0,
                    p_filesz=segment.size_bytes // PACKED_RATIO, p_memsz=segment.size_bytes,
                    p_align=0,
                )  # fmt: skip


def _check_segments(segments: Sequence[CoreSegment], page_size_bytes: int) -> None:
    if page_size_bytes not in PAGE_SIZES_BYTES:
        known = ", ".join(f"{size:#x}" for size in PAGE_SIZES_BYTES)
        raise UsageError(f"page size {page_size_bytes:#x} is not one of {known}")
    if not segments:
        raise UsageError("a core needs at least one segment of memory")
    for segment in segments:
        _check_segment(segment, page_size_bytes)
    for below, above in pairwise(sorted(segments, key=lambda segment: segment.address)):
        if below.end > above.address:
            raise UsageError(
                f"segments [{below.address:#x}, {below.end:#x}) and "
                f"[{above.address:#x}, {above.end:#x}) overlap"
            )


def _check_segment(segment: CoreSegment, page_size_bytes: int) -> None:
    numbers = {
        "address": segment.address,
        "physical address": segment.physical,
        "size": segment.size_bytes,
    }
    for name, value in numbers.items():
        if value < 0 or value % page_size_bytes:
            raise UsageError(
                f"a segment's {name} {value:#x} is not a multiple of the page size "
                f"{page_size_bytes:#x}"
            )
    if not segment.size_bytes or segment.end > _ADDRESS_SPACE_END:
        raise UsageError(
            f"a segment [{segment.address:#x}, {segment.end:#x}) is empty or leaves memory"
        )
