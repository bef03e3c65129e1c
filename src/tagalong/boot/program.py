"""Loads a guest program into a machine and sets vCPU 0 at its entry.

The boot protocol is in docs/guide/guests.md: the guest starts at its ELF entry at EL1 with
the MMU off and finds in x0 the gpa of the boot block, which is at the start of RAM.
Source for the image: System V ABI, chapters 4 and 5 (ELF header, program header).
"""

from __future__ import annotations

import struct
from itertools import pairwise
from typing import TYPE_CHECKING, Final, NamedTuple

from tagalong._lazy import module_when_used
from tagalong._native import LIBRARY_FOLDER
from tagalong.binary import elf
from tagalong.binary.layout import MalformedError
from tagalong.errors import AddressError, GuestImageError
from tagalong.machine import Machine, register_ids
from tagalong.memory import Gpa
from tagalong.mte import PACKED_RATIO

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
else:
    np = module_when_used("numpy")

BOOT_MAGIC: Final = int.from_bytes(b"AGALTBT1", "little")
END_MAGIC: Final = int.from_bytes(b"AGALTEND", "little")
END_BLOCK: Final = struct.Struct("<QQ")
BOOT_BLOCK: Final = struct.Struct("<QQQIIQ")
COMMAND_LINE_MAX_BYTES: Final = 2048

_CLEARED_AT_A_TIME: Final = 1024  # pages
_MAX_PROGRAM_HEADERS: Final = 1024
_PSTATE_EL1H_MASKED: Final = 0x3C5


class Segment(NamedTuple):
    """One PT_LOAD: where it goes, its bytes (a view of the image), and its size in memory."""

    gpa: Gpa
    data: memoryview
    memory_bytes: int


class GuestImage(NamedTuple):
    """A parsed guest program."""

    entry: int
    segments: tuple[Segment, ...]


def guest_image_path(name: str) -> Path:
    """Return the path of a guest program that comes with the package, such as "churn".

    Raises GuestImageError naming those that exist.
    """
    path = LIBRARY_FOLDER / f"{name}.elf"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in LIBRARY_FOLDER.glob("*.elf"))) or "none"
        raise GuestImageError(f"no built-in guest {name!r}; there are: {known}")
    return path


def parse_image(image: bytes) -> GuestImage:
    """Parse a static AArch64 ELF64 executable.

    Raises GuestImageError naming the offset of what is wrong. Segments are views of `image`
    and must not overlap in memory, so an image costs no more than its own size and the RAM
    that it fills, whatever it claims.
    """
    view = elf.view_of(image)
    try:
        header = elf.read_elf_header(view, len(image))
        machine_at = elf.ELF_HEADER.offsets["e_machine"]
        elf.require_field("e_machine (AArch64)", header.machine, elf.EM_AARCH64, machine_at)
        headers = elf.read_program_headers(view, len(image), header, most=_MAX_PROGRAM_HEADERS)
    except MalformedError as error:
        raise GuestImageError(f"guest image offset {error.offset:#x}: {error}") from error
    segments = tuple(
        _segment(image, each)
        for each in headers
        if each.type == elf.PT_LOAD and (each.size_bytes or each.file_bytes)
    )
    if not segments:
        raise GuestImageError(f"guest image offset {header.phoff:#x}: no PT_LOAD segment")
    _require_apart(segments)
    return GuestImage(header.entry, segments)


def _segment(image: bytes, header: elf.ProgramHeader) -> Segment:
    size = header.file_bytes
    if header.is_cut or size > header.size_bytes:
        raise GuestImageError(
            f"guest image offset {header.at:#x}: segment of {size:#x} bytes at "
            f"{header.offset:#x} (in memory {header.size_bytes:#x}) does not fit in "
            f"{len(image):#x} bytes"
        )
    content = memoryview(image)[header.offset : header.offset + size]
    return Segment(Gpa(header.physical), content, header.size_bytes)


def _require_apart(segments: tuple[Segment, ...]) -> None:
    for below, above in pairwise(sorted(segments, key=lambda segment: segment.gpa)):
        if below.gpa + below.memory_bytes > above.gpa:
            raise GuestImageError(
                f"guest segments {below.gpa:#x}+{below.memory_bytes:#x} and "
                f"{above.gpa:#x}+{above.memory_bytes:#x} overlap"
            )


def boot_guest(machine: Machine, image: bytes, *, command_line: str = "", seed: int = 0) -> None:
    """Load `image`, write the boot block and set vCPU 0 to start; the machine stays paused.

    `command_line` is ASCII of at most COMMAND_LINE_MAX_BYTES. Raises GuestImageError; RAM
    may hold parts of the image then and the machine must not be resumed.
    """
    parsed = parse_image(image)
    for segment in parsed.segments:
        _load_segment(machine, segment)
    block_gpa = machine.memory.regions[0].gpa
    block = _boot_block(machine, command_line, seed)
    if any(s.gpa < block_gpa + len(block) and s.gpa + s.memory_bytes > block_gpa
           for s in parsed.segments):  # fmt: skip
        raise GuestImageError(
            f"guest image covers {block_gpa:#x}, the start of RAM, where the boot block goes"
        )
    machine.memory.write(block_gpa, block)
    vcpu = machine.vcpus[0]
    vcpu.set_register(register_ids.PC, parsed.entry)
    vcpu.set_register(register_ids.x(0), block_gpa)
    vcpu.set_register(register_ids.PSTATE, _PSTATE_EL1H_MASKED)


def clear_ram(machine: Machine) -> None:
    """Make all of a paused machine's RAM zero, data and tags, as a guest program expects it.

    Pages never used stay holes. Recorded in the dirty log. Raises what writing guest RAM raises.
    """
    for number, populated in enumerate(machine.populated_pages()):
        region = machine.memory.regions[number]
        pages = populated.pages()
        for first in range(0, pages.size, _CLEARED_AT_A_TIME):
            batch = pages[first : first + _CLEARED_AT_A_TIME]
            page_bytes = region.page_size_bytes
            region.write_pages(batch, np.zeros((batch.size, page_bytes), np.uint8))
            tags = np.zeros((batch.size, page_bytes // PACKED_RATIO), np.uint8)
            machine.write_page_tags(number, batch, tags)


def reported_status(machine: Machine) -> int | None:
    """Return the status that a guest left in place of the boot block before it powered off.

    0 means that the guest's work went well. None if it left none, which a guest need not. Raises
    what reading guest RAM raises; for a machine that has ended.
    """
    block = machine.memory.read(machine.memory.regions[0].gpa, END_BLOCK.size)
    magic, status = END_BLOCK.unpack(block)
    return int(status) if magic == END_MAGIC else None


def _load_segment(machine: Machine, segment: Segment) -> None:
    try:
        machine.memory.locate(segment.gpa, max(segment.memory_bytes, 1))
    except AddressError as error:
        raise GuestImageError(
            f"guest segment {segment.gpa:#x}+{segment.memory_bytes:#x} is not in RAM: {error}"
        ) from error
    # The rest up to memory_bytes is zero already: RAM is new, and untouched pages stay holes.
    machine.memory.write(segment.gpa, segment.data)


def _boot_block(machine: Machine, command_line: str, seed: int) -> bytes:
    try:
        text = command_line.encode("ascii")
    except UnicodeEncodeError as error:
        raise GuestImageError(f"guest command line is not ASCII: {error}") from error
    if len(text) > COMMAND_LINE_MAX_BYTES or b"\0" in text:
        raise GuestImageError(
            f"guest command line of {len(text)} bytes: at most {COMMAND_LINE_MAX_BYTES} without NUL"
        )
    ram = machine.memory.regions[0]
    header = BOOT_BLOCK.pack(
        BOOT_MAGIC, ram.gpa, ram.size_bytes, len(machine.vcpus), len(text), seed & (1 << 64) - 1
    )
    return header + text + b"\0"
