"""The one model of a crash, for reports of every source. What a source does not say is None.

A core has all of a process's memory, a tombstone some windows of it, a kernel's report five rows
of tags. The analysis asks for what it needs and says what it lacked.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from tagalong.core.regions import CoreRegion
from tagalong.mte import GRANULE_BYTES

UNKNOWN_TAG: Final = -1
"""In an array of tags: the source has no tag for this granule, which is not tag 0."""

TagArray = NDArray[np.int16]
"""Allocation tags, one per granule, UNKNOWN_TAG where there is none.

16 bits wide, for a kernel with KASAN_SW_TAGS has tags of 8 bits.
"""


class SourceKind(StrEnum):
    """What the crash was read from."""

    PROCESS_CORE = "process core"
    GUEST = "guest"
    TOMBSTONE = "tombstone"
    KASAN_REPORT = "KASAN report"
    APPLE_REPORT = "Apple crash report"


class CrashWorld(StrEnum):
    """Whose memory it is: which allocators and which rules can be at work."""

    PROCESS = "process"
    KERNEL = "kernel"


class CheckMode(StrEnum):
    """How the failed check was reported; NONE is a crash that no tag check caused."""

    SYNC = "synchronous"
    ASYNC = "asynchronous"
    NONE = "no tag check"


class DataDirection(StrEnum):
    """Which way the data of an access went."""

    READ = "read"
    WRITE = "write"


class Allocator(StrEnum):
    """Allocators whose rules for tags are known; UNKNOWN if nothing tells which one it is."""

    GLIBC = "glibc"
    SCUDO = "scudo"
    HARDENED_MALLOC = "hardened_malloc"
    KASAN_HW = "SLUB with KASAN_HW_TAGS"
    KASAN_SW = "SLUB with KASAN_SW_TAGS"
    XZONE = "xzone malloc"
    UNKNOWN = "unknown"


class CrashMemory(Protocol):
    """Memory around a crash, as far as the source has it; reading never raises for a gap."""

    @property
    def extents(self) -> Sequence[CoreRegion]:
        """Return what there is of data and tags, in ascending order, without overlap.

        Of a guest, what is around the places that were looked at.
        """
        ...

    @property
    def address_space(self) -> Sequence[CoreRegion]:
        """Return all of it, for a map: as `extents`, and of a guest all that its tables map."""
        ...

    def stored_tags(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Yield the parts of a range that must be read; the other tags of it are 0."""
        ...

    def data(self, address: int, length: int) -> bytes | None:
        """Return `length` bytes from `address` on, None if any of them is absent."""
        ...

    def tags(self, address: int, length: int) -> TagArray:
        """Return the tags of a range, shape (length / 16,); both multiples of 16."""
        ...


class AllocationRecords(Protocol):
    """What an allocator wrote down about blocks that are in use."""

    def with_allocation(self, block: "Block") -> "Block":
        """Return a block with the stack and the thread of its allocation, if they are known."""
        ...


class NoMemory:
    """The memory of a report that has none."""

    extents: Sequence[CoreRegion] = ()
    address_space: Sequence[CoreRegion] = ()

    def stored_tags(self, _start: int, _stop: int) -> Iterator[tuple[int, int]]:
        """Yield nothing."""
        return iter(())

    def data(self, _address: int, _length: int) -> bytes | None:
        """Return None."""
        return None

    def tags(self, _address: int, length: int) -> TagArray:
        """Return no tag that is known."""
        return np.full(length // GRANULE_BYTES, UNKNOWN_TAG, np.int16)


@dataclass(frozen=True)
class TagFault:
    """The failed check. `address` has no tag bits; `reason` is the source's own words.

    `pointer_tag`: the logical tag of the pointer. `memory_tag`: the allocation tag that the source
    says it met; what the memory itself has is found by the analysis. `size_bytes` and `direction`
    as the source says them. `is_free`: a function that frees made the check, not an instruction.
    """

    mode: CheckMode
    reason: str
    address: int | None = None
    pointer_tag: int | None = None
    memory_tag: int | None = None
    size_bytes: int | None = None
    direction: DataDirection | None = None
    is_free: bool = False

    @property
    def granule(self) -> int | None:
        """Return the address of the granule of `address`."""
        return None if self.address is None else self.address // GRANULE_BYTES * GRANULE_BYTES


@dataclass(frozen=True)
class FaultingAccess:
    """The instruction at the fault's pc, as far as it is known.

    `base`: the register that held the pointer, "x0" to "x30" or "sp"; `index` the one that was
    added to it. `offset_bytes` was added as well, `size_bytes` is what it touches in all.
    """

    pc: int | None
    encoding: int | None = None
    text: str | None = None
    size_bytes: int | None = None
    direction: DataDirection | None = None
    base: str | None = None
    index: str | None = None
    offset_bytes: int | None = None


@dataclass(frozen=True)
class StackFrame:
    """One frame of a call stack. `module_offset` is into the module's file, `source` FILE:LINE.

    `build`: which build of the module it was, its build id as hex digits; a kernel's release and
    version if its report has no build id.
    """

    pc: int | None
    symbol: str | None = None
    module: str | None = None
    module_offset: int | None = None
    build: str | None = None
    source: str | None = None


@dataclass(frozen=True)
class CrashMapping:
    """Addresses [start, end) that a file or a name is known of; `file_offset` is at `start`."""

    start: int
    end: int
    name: str
    file_offset: int | None = None


class BlockState(StrEnum):
    """Whether a block is in use."""

    ALLOCATED = "allocated"
    FREED = "freed"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Block:
    """Memory [start, end) that an allocator handed out, or has taken back.

    `tag`: the tag of the pointer that it handed out, None if that is not known. `is_exact`: the
    size is the requested one, not rounded to granules. `known_by` says what tells of it. The
    stacks and the threads are those of its allocation and its free.
    """

    start: int
    end: int
    tag: int | None
    state: BlockState
    known_by: str
    is_exact: bool = False
    allocated_by: tuple[StackFrame, ...] = ()
    freed_by: tuple[StackFrame, ...] = ()
    allocating_thread: int | None = None
    freeing_thread: int | None = None

    @property
    def size_bytes(self) -> int:
        """Return the block's size."""
        return self.end - self.start


@dataclass(frozen=True)
class ReportedCause:
    """A cause that the source itself names: debuggerd's, the kernel's. It is not believed."""

    text: str
    block: Block | None = None


@dataclass(frozen=True)
class AllocatorFacts:
    """What the source says about the allocator: past blocks, ring entries, reported objects.

    `previous`: blocks that had been at an address before, newest first. `has_all_frees`: a free
    that is not among them did not happen.
    """

    kind: Allocator = Allocator.UNKNOWN
    known_by: str | None = None
    blocks: tuple[Block, ...] = ()
    previous: tuple[Block, ...] = ()
    reported: tuple[ReportedCause, ...] = ()
    has_all_frees: bool = False
    records: AllocationRecords | None = None


@dataclass(frozen=True)
class Crash:
    """All that a source says about one crash.

    `name`: the file's or the VM's. `registers`: by name, "x0" to "x30", "sp", "pc", "pstate";
    values with all their bits. `tag_bits`: 4, or 8 with KASAN_SW_TAGS. `tag_mask`: which tags
    may be drawn, bit t for tag t.
    `notes`: what the reader has to say, in sentences. `process` is the program's name.
    """

    source: SourceKind
    world: CrashWorld
    name: str
    fault: TagFault
    access: FaultingAccess | None = None
    registers: Mapping[str, int] | None = None
    memory: CrashMemory = field(default_factory=NoMemory)
    mappings: tuple[CrashMapping, ...] = ()
    backtrace: tuple[StackFrame, ...] = ()
    allocator: AllocatorFacts = AllocatorFacts()
    process: str | None = None
    thread: int | None = None
    tag_bits: int = 4
    tag_mask: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def largest_tag(self) -> int:
        """Return the largest tag that there is."""
        return (1 << self.tag_bits) - 1

    def mapping_of(self, address: int) -> CrashMapping | None:
        """Return the mapping that holds an address, None if none is known to."""
        return next((each for each in self.mappings if each.start <= address < each.end), None)

    def tag_at(self, address: int) -> int | None:
        """Return the allocation tag of an address's granule, None if it is not known."""
        granule = address // GRANULE_BYTES * GRANULE_BYTES
        tag = int(self.memory.tags(granule, GRANULE_BYTES)[0])
        return None if tag == UNKNOWN_TAG else tag
