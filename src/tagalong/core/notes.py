"""Reads the notes of a core: registers of each vCPU or thread, the auxiliary vector."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tagalong.binary import elf
from tagalong.binary.elf import ProgramHeader
from tagalong.binary.layout import Layout
from tagalong.core import thread_notes
from tagalong.core.note_types import OWNER_CORE, OWNER_LINUX, NoteType
from tagalong.core.source import Source
from tagalong.errors import MalformedCoreError

MAX_NOTES: Final = 1 << 19
"""Linux writes some eight for each thread; tagalong at most 2049."""

MAX_NOTES_BYTES: Final = 256 << 20
"""Of all note segments together. tagalong writes at most 33 MiB; Linux some 4 KiB per thread."""

MAX_THREADS: Final = 1 << 16
"""Threads whose registers are read: twice the pid_max that Linux has by default."""

MAX_OWNER_BYTES: Final = 1 << 10
MAX_AUXILIARY_BYTES: Final = 1 << 16

_WIDER_ALIGNMENT = 8


@dataclass(frozen=True)
class Note:
    """One note. `at` is its place in the file, `content_at` that of its description."""

    owner: str
    type: int
    content: memoryview
    at: int
    content_at: int


@dataclass(frozen=True)
class CoreVcpu:
    """The registers of a vCPU, or of a thread in a core of a process.

    `thread`: its number in the core (pr_pid); a vCPU's index + 1 in a core of tagalong.
    `signal`: what stopped it, or 0. `x`: x0 to x30. `v`: v0 to v31 as 128-bit numbers. `fpsr`,
    `fpcr` and `v` are None if the core has no NT_FPREGSET for it, `tagged_address_control` (the
    word of PR_SET_TAGGED_ADDR_CTRL) if it has no NT_ARM_TAGGED_ADDR_CTRL.
    """

    thread: int
    signal: int
    x: tuple[int, ...]
    sp: int
    pc: int
    pstate: int
    v: tuple[int, ...] | None
    fpsr: int | None
    fpcr: int | None
    tagged_address_control: int | None


def read_notes(source: Source, headers: Sequence[ProgramHeader]) -> list[Note]:
    """Return the notes of all PT_NOTE segments in their order.

    Raises MalformedCoreError for a note that does not fit its segment, for a segment that the
    file does not have as a whole, and beyond MAX_NOTES and MAX_NOTES_BYTES. These bound the
    whole file: a small file can name the same bytes in many segments.
    """
    segments = [header for header in headers if header.type == elf.PT_NOTE]
    _require_total(segments)
    notes: list[Note] = []
    for header in segments:
        for note in _notes_in(source, header):
            if len(notes) == MAX_NOTES:
                raise MalformedCoreError(
                    f"more than {MAX_NOTES:#x} notes are not possible", offset=note.at
                )
            notes.append(note)
    return notes


def _require_total(segments: Sequence[ProgramHeader]) -> None:
    total = 0
    for header in segments:
        total += header.file_bytes
        if total > MAX_NOTES_BYTES:
            raise MalformedCoreError(
                f"{total:#x} bytes of notes up to this segment: {MAX_NOTES_BYTES:#x} are possible "
                "in all segments together",
                offset=header.at + elf.PROGRAM_HEADER.offsets["p_filesz"],
            )


def _notes_in(source: Source, header: ProgramHeader) -> Iterator[Note]:
    if header.is_cut:
        raise MalformedCoreError(
            f"the notes take [{header.offset:#x}, {header.offset + header.file_bytes:#x}), but "
            f"the file ends at {source.size:#x}",
            offset=source.size,
        )
    content = source.raw(header.offset, header.file_bytes)
    # Linux says 4, or 0 for it, even where it could be 8; gABI's 8 is seen in other files.
    wider = header.alignment == _WIDER_ALIGNMENT
    align = _WIDER_ALIGNMENT if wider else elf.NOTE_ALIGNMENT
    at = 0
    while at < len(content):
        note, at = _note_at(content, at, header.offset, align)
        yield note


def _note_at(content: memoryview, at: int, base: int, align: int) -> tuple[Note, int]:
    """Return the note at byte `at` of a segment, and where the next one begins."""
    head_size = elf.NOTE_HEADER.size
    left = len(content) - at
    if left < head_size:
        raise MalformedCoreError(
            f"a note needs {head_size:#x} bytes, but its segment has {left:#x} left",
            offset=base + at,
        )
    head = elf.NOTE_HEADER.unpack(content, at)
    name_at = at + head_size
    content_at = elf.align_up(name_at + head["n_namesz"], align)
    stop = content_at + head["n_descsz"]
    if stop > len(content):
        raise MalformedCoreError(
            f"a note with a name of {head['n_namesz']:#x} and a description of "
            f"{head['n_descsz']:#x} bytes does not fit in its segment, which has {left:#x} left",
            offset=base + at,
        )
    if head["n_namesz"] > MAX_OWNER_BYTES:
        raise MalformedCoreError(
            f"a note's owner has {head['n_namesz']:#x} bytes: {MAX_OWNER_BYTES:#x} are possible",
            offset=base + at,
        )
    name = content[name_at : name_at + head["n_namesz"]].tobytes()
    owner = name.split(b"\0", maxsplit=1)[0].decode("ascii", "backslashreplace")
    note = Note(owner, head["n_type"], content[content_at:stop], base + at, base + content_at)
    return note, elf.align_up(stop, align)


def threads_of(notes: Sequence[Note]) -> list[list[Note]]:
    """Return the notes of each thread: NT_PRSTATUS and what follows it up to the next one.

    Raises MalformedCoreError beyond MAX_THREADS.
    """
    threads: list[list[Note]] = []
    for note in notes:
        if is_core(note, NoteType.NT_PRSTATUS):
            if len(threads) == MAX_THREADS:
                raise MalformedCoreError(
                    f"more than {MAX_THREADS:#x} threads are not possible", offset=note.at
                )
            threads.append([])
        if threads:
            threads[-1].append(note)
    return threads


def other_system(notes: Sequence[Note]) -> str | None:
    """Return the operating system whose own notes these are, None for Linux and unknown ones.

    Source: FreeBSD sys/sys/elf_common.h; NetBSD sys/sys/exec_elf.h; OpenBSD
    sys/sys/exec_elf.h.
    """
    for note in notes:
        for system in ("FreeBSD", "NetBSD", "OpenBSD"):
            # In NetBSD and OpenBSD, -CORE and @ with the number of a thread follow.
            if note.owner == system or note.owner.startswith((f"{system}-CORE", f"{system}@")):
                return system
    return None


def is_core(note: Note, kind: NoteType) -> bool:
    """Return whether this is a note of type `kind` as the kernel writes it."""
    linux = kind is NoteType.NT_ARM_TAGGED_ADDR_CTRL
    return note.type == kind and note.owner == (OWNER_LINUX if linux else OWNER_CORE)


def vcpu_of(notes: Sequence[Note]) -> CoreVcpu:
    """Return the registers that the notes of one thread hold.

    Raises MalformedCoreError for a note of another size than it has in Linux on arm64.
    """
    status = _fields(notes[0], thread_notes.PRSTATUS)
    general = thread_notes.USER_PT_REGS.unpack(status["pr_reg"])
    floating = _first(notes, NoteType.NT_FPREGSET, thread_notes.FPREGSET)
    control = _first(notes, NoteType.NT_ARM_TAGGED_ADDR_CTRL, thread_notes.TAGGED_ADDR_CTRL)
    return CoreVcpu(
        thread=status["pr_pid"],
        signal=status["pr_cursig"],
        x=_numbers(general["x"], 8),
        sp=general["sp"],
        pc=general["pc"],
        pstate=general["pstate"],
        v=_numbers(floating["vregs"], 16) if floating else None,
        fpsr=floating["fpsr"] if floating else None,
        fpcr=floating["fpcr"] if floating else None,
        tagged_address_control=control["control"] if control else None,
    )


def _first(notes: Sequence[Note], kind: NoteType, layout: Layout) -> dict[str, Any] | None:
    found = next((note for note in notes if is_core(note, kind)), None)
    return _fields(found, layout) if found else None


def _fields(note: Note, layout: Layout) -> dict[str, Any]:
    if len(note.content) != layout.size:
        raise MalformedCoreError(
            f"a note of type {note.type:#x} has {layout.size:#x} bytes on arm64, this one "
            f"{len(note.content):#x}",
            offset=note.at,
        )
    return layout.unpack(note.content)


def _numbers(raw: bytes, size: int) -> tuple[int, ...]:
    return tuple(int.from_bytes(raw[at : at + size], "little") for at in range(0, len(raw), size))


def auxiliary_vector(notes: Sequence[Note]) -> dict[int, int] | None:
    """Return the entries of NT_AUXV by their a_type, None if the core has no such note.

    Raises MalformedCoreError if it does not consist of whole entries, or is larger than
    MAX_AUXILIARY_BYTES.
    """
    note = next((note for note in notes if is_core(note, NoteType.NT_AUXV)), None)
    if note is None:
        return None
    size = thread_notes.AUXV_ENTRY.size
    if len(note.content) > MAX_AUXILIARY_BYTES:
        raise MalformedCoreError(
            f"the auxiliary vector has {len(note.content):#x} bytes: {MAX_AUXILIARY_BYTES:#x} are "
            "possible",
            offset=note.at,
        )
    if len(note.content) % size:
        raise MalformedCoreError(
            f"the auxiliary vector has {len(note.content):#x} bytes, no multiple of {size:#x}",
            offset=note.at,
        )
    return {
        kind: value
        for kind, value in thread_notes.AUXV_ENTRY.rows(note.content)
        if kind != thread_notes.AT_NULL
    }
