"""Loads a guest program into a machine and sets vCPU 0 at its entry.

The boot protocol is in docs/guide/guests.md: the guest starts at its ELF entry at EL1 with
the MMU off and finds in x0 the gpa of the boot block, which stands at the start of RAM.
Source for the image: System V ABI, chapters 4 and 5 (ELF header, program header).
"""

import struct
from pathlib import Path
from typing import Final, NamedTuple

from tagalong._native import LIBRARY_FOLDER
from tagalong.errors import AddressError, GuestImageError
from tagalong.machine import Machine, register_ids
from tagalong.memory import Gpa

BOOT_MAGIC: Final = int.from_bytes(b"AGALTBT1", "little")
BOOT_BLOCK: Final = struct.Struct("<QQQIIQ")
COMMAND_LINE_MAX_BYTES: Final = 2048

_ELF_HEADER: Final = struct.Struct("<16sHHIQQQIHHHHHH")
_PROGRAM_HEADER: Final = struct.Struct("<IIQQQQQQ")
_ELF64_LITTLE_ENDIAN: Final = b"\x7fELF\x02\x01\x01"
_EM_AARCH64: Final = 183
_PT_LOAD: Final = 1
_PSTATE_EL1H_MASKED: Final = 0x3C5


class Segment(NamedTuple):
    """One PT_LOAD: where it goes, its bytes, and its size in memory."""

    gpa: Gpa
    data: bytes
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

    Raises GuestImageError naming the offset of what is wrong; nothing is allocated by what
    the file claims beyond its own size.
    """
    if len(image) < _ELF_HEADER.size or not image.startswith(_ELF64_LITTLE_ENDIAN):
        raise GuestImageError("guest image offset 0x0: not a little-endian ELF64 file")
    fields = _ELF_HEADER.unpack_from(image)
    machine, entry, table = fields[2], fields[4], fields[5]
    entry_size, count = fields[9], fields[10]
    if machine != _EM_AARCH64:
        raise GuestImageError(f"guest image offset 0x12: e_machine {machine}, expected AArch64")
    if entry_size != _PROGRAM_HEADER.size or table + count * entry_size > len(image):
        raise GuestImageError(
            f"guest image offset 0x20: {count} program headers at {table:#x} do not fit in "
            f"{len(image):#x} bytes"
        )
    offsets = range(table, table + count * entry_size, entry_size)
    segments = tuple(s for s in (_parse_segment(image, offset) for offset in offsets) if s)
    if not segments:
        raise GuestImageError(f"guest image offset {table:#x}: no PT_LOAD segment")
    return GuestImage(entry, segments)


def _parse_segment(image: bytes, offset: int) -> Segment | None:
    kind, _, start, _, gpa, size, memory_size, _ = _PROGRAM_HEADER.unpack_from(image, offset)
    if kind != _PT_LOAD:
        return None
    if start + size > len(image) or size > memory_size:
        raise GuestImageError(
            f"guest image offset {offset:#x}: segment of {size:#x} bytes at {start:#x} (in "
            f"memory {memory_size:#x}) does not fit in {len(image):#x} bytes"
        )
    return Segment(Gpa(gpa), image[start : start + size], memory_size)


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
