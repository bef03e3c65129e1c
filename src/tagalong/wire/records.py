"""The records of the stream as frozen values (docs/formats/stream.md, section 4).

They say what is sent, not how: the codec chooses the encoding of a plane. None of them depends
on a machine; `tagalong.machine_records` translates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, IntEnum, IntFlag
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, NamedTuple, TypeAlias, overload

from tagalong._lazy import module_when_used

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray
else:
    np = module_when_used("numpy")


class RecordType(IntEnum):
    """The number of each record type; 0 is invalid, so zeroed memory is never a record."""

    HELLO = 1
    MACHINE = 2
    ACCEPT = 3
    PAGES = 4
    ROUND = 5
    STATE = 6
    VERIFY = 7
    DIGEST = 8
    PREPARE = 9
    READY = 10
    COMMIT = 11
    RUNNING = 12
    ABORT = 13
    KEEPALIVE = 14
    CHANNEL = 15
    END = 16
    RESUME = 17
    HELD = 18
    RESUMED = 19


class Role(IntEnum):
    """Which end of the migration."""

    SOURCE = 1
    DESTINATION = 2

    @property
    def peer(self) -> Role:
        """Return the role of the peer."""
        return Role.DESTINATION if self is Role.SOURCE else Role.SOURCE


class Feature(IntFlag):
    """Feature bits of HELLO."""

    ZSTD = 1 << 0
    CHANNELS = 1 << 1
    RESUME = 1 << 2
    TAGS_ONLY = 1 << 4
    TAGS_IN_PLACE = 1 << 5
    TAG_RUNS = 1 << 6
    AUTO_CHANNELS = 1 << 7
    GUEST_ID = 1 << 8


# A plain int: the complement of an IntFlag has none of the bits that have no name.
SUPPORTED_FEATURES = int(Feature.ZSTD | Feature.CHANNELS | Feature.RESUME | Feature.TAG_RUNS)
KNOWN_FEATURES = SUPPORTED_FEATURES | int(
    Feature.TAGS_ONLY | Feature.TAGS_IN_PLACE | Feature.AUTO_CHANNELS | Feature.GUEST_ID
)


class Power(IntEnum):
    """A vCPU's power state on the wire (KVM_MP_STATE_RUNNABLE, KVM_MP_STATE_STOPPED)."""

    ON = 0
    OFF = 5


class AbortReason(IntEnum):
    """Why an end gave up, for the peer's program; the text is for a person."""

    MACHINE_MISMATCH = 1
    STATE_REFUSED = 2
    DIGEST_MISMATCH = 3
    CANCELLED = 4
    NOT_CONVERGED = 5
    PROTOCOL = 6
    HOST = 7
    INTERNAL = 8


class NoBytes(Enum):
    """What a plane is whose bytes are not sent: things that must not be confused.

    ABSENT: the machine has no such plane. ZERO: all of it is zero. KEPT: the receiver's own
    bytes are still right.
    """

    ABSENT = "absent"
    ZERO = "zero"
    KEPT = "kept"


@dataclass(frozen=True)
class Hello:
    """Open a conversation: the sender's role and abilities.

    `channels`: connections that the source asks for in this migration, or the destination
    grants, this one included. `reconnect_s`: how long the source will try to come back
    after a broken connection, or the destination will wait for that; 0: not at all.
    """

    type: ClassVar = RecordType.HELLO

    role: Role
    migration_id: bytes
    compatible_features: int = SUPPORTED_FEATURES
    mandatory_features: int = 0
    channels: int = 1
    reconnect_s: int = 0

    @property
    def offered_features(self) -> int:
        """Return every feature bit that the sender can do."""
        return self.compatible_features | self.mandatory_features

    @property
    def is_tags_only(self) -> bool:
        """Return whether the stream carries tags without data."""
        return bool(self.offered_features & Feature.TAGS_ONLY)


@dataclass(frozen=True)
class RegionEntry:
    """One range of guest RAM, in bytes."""

    gpa: int
    size_bytes: int

    @property
    def end(self) -> int:
        """Return the first gpa behind the region."""
        return self.gpa + self.size_bytes

    def __str__(self) -> str:
        return f"RAM [{self.gpa:#x}, {self.end:#x})"


# How much of a device's configuration a message shows.
_SHOWN_BYTES = 32


@dataclass(frozen=True)
class DeviceEntry:
    """What the guest sees of one device: `config` is in the form of the device's kind.

    `gpa`, `size_bytes`: its window. `interrupt`: the INTID of its line, None if it has no line.
    """

    name: str
    kind: str
    gpa: int
    size_bytes: int
    interrupt: int | None = None
    config: bytes = b""

    @property
    def end(self) -> int:
        """Return the first gpa behind the window."""
        return self.gpa + self.size_bytes

    def __str__(self) -> str:
        line = "no interrupt" if self.interrupt is None else f"interrupt {self.interrupt}"
        shown = self.config[:_SHOWN_BYTES].hex() + ("..." if self.config[_SHOWN_BYTES:] else "")
        return (
            f"device {self.name} ({self.kind} at [{self.gpa:#x}, {self.end:#x}), {line}, "
            f"configuration {shown or 'empty'})"
        )


_GIC_FRAME_BYTES = 0x1_0000


class GicFrame(NamedTuple):
    """A range of gpas that a GIC takes."""

    name: str
    gpa: int
    end: int

    def __str__(self) -> str:
        return f"the GIC's {self.name} [{self.gpa:#x}, {self.end:#x})"


@dataclass(frozen=True)
class GicEntry:
    """Where a GICv3 is, and how many SPIs it has."""

    distributor: int
    redistributors: int
    spi_count: int

    def frames(self, vcpu_count: int) -> tuple[GicFrame, GicFrame]:
        """Return what it takes: one frame of 64 KiB, and two per vCPU."""
        redistributors_end = self.redistributors + 2 * vcpu_count * _GIC_FRAME_BYTES
        return (
            GicFrame("distributor", self.distributor, self.distributor + _GIC_FRAME_BYTES),
            GicFrame("redistributors", self.redistributors, redistributors_end),
        )


@dataclass(frozen=True)
class MachineRecord:
    """What the destination must provide before it can hold the VM."""

    type: ClassVar = RecordType.MACHINE

    page_size_bytes: int
    vcpu_count: int
    mte_version: int
    regions: tuple[RegionEntry, ...]
    devices: tuple[DeviceEntry, ...] = ()
    gic: GicEntry | None = None

    @cached_property
    def region_starts(self) -> NDArray[np.uint64]:
        """Return where the regions start, in order."""
        return np.array([region.gpa for region in self.regions], np.uint64)

    @cached_property
    def region_ends(self) -> NDArray[np.uint64]:
        """Return 0, and where the regions end: [n] is the end of the last of the first n."""
        return np.array([0, *(region.end for region in self.regions)], np.uint64)


@dataclass(frozen=True)
class Accept:
    """The machine is provided and can be filled."""

    type: ClassVar = RecordType.ACCEPT


class Run(NamedTuple):
    """Consecutive pages of one region."""

    first_gpa: int
    page_count: int


class Runs(Sequence[Run]):
    """Runs of a batch in one array, so that a thousand runs cost no more than one.

    `array`: shape (runs, 2), uint64, gpa of the first page and number of pages; not to be
    changed. Raises OverflowError for a value that does not fit in a u64.

    >>> Runs([Run(0x4000_0000, 2)]).page_count
    2
    """

    def __init__(self, runs: Sequence[tuple[int, int]] | NDArray[np.uint64]) -> None:
        self.array = np.asarray(runs, np.uint64).reshape(-1, 2)

    def __len__(self) -> int:
        return len(self.array)

    @overload
    def __getitem__(self, place: int) -> Run: ...
    @overload
    def __getitem__(self, place: slice) -> Runs: ...
    def __getitem__(self, place: int | slice) -> Run | Runs:
        chosen = self.array[place]
        return Runs(chosen) if isinstance(place, slice) else Run(*chosen.tolist())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Runs) and np.array_equal(self.array, other.array)

    def __hash__(self) -> int:
        return hash(self.array.tobytes())

    def __repr__(self) -> str:
        return f"Runs({[*self]})"

    @cached_property
    def page_count(self) -> int:
        """Return the pages of all runs."""
        return sum(self.array[:, 1].tolist())


@dataclass(frozen=True)
class Pages:
    """Data and tags of runs of pages; both planes are replaced as a whole.

    `data` has the bytes of all runs in order, in pieces of whole pages, or is ZERO, or KEPT
    where only tags have changed. Received data are what the connection's `Placement` named for
    them, filled; data that came compressed are one piece of new memory. `tags` are the packed
    allocation tags of all runs, or ZERO, or ABSENT if the machine has none. `level`: compress
    the data with Zstandard at this level, if that makes them smaller.
    """

    type: ClassVar = RecordType.PAGES

    runs: Runs
    data: Sequence[memoryview] | NoBytes
    tags: memoryview | NoBytes
    level: int | None = field(default=None, compare=False)

    @property
    def page_count(self) -> int:
        """Return the pages of all runs."""
        return self.runs.page_count


@dataclass(frozen=True)
class Round:
    """The end of a round: so many pages were sent, or, in the answer, placed."""

    type: ClassVar = RecordType.ROUND

    number: int
    page_count: int


@dataclass(frozen=True)
class VcpuEntry:
    """One vCPU: register values by KVM ONE_REG id, and its power state."""

    power: Power
    registers: Mapping[int, int]


@dataclass(frozen=True)
class GicStateEntry:
    """A GIC's registers by offset and by encoding, and the levels of its lines.

    `redistributors`, `cpu_interfaces` and `ppi_levels` have an element per vCPU.
    """

    distributor: Mapping[int, int]
    redistributors: tuple[Mapping[int, int], ...]
    cpu_interfaces: tuple[Mapping[int, int], ...]
    spi_levels: tuple[int, ...]
    ppi_levels: tuple[int, ...]


@dataclass(frozen=True)
class StateRecord:
    """Everything the machine is besides its memory and tags."""

    type: ClassVar = RecordType.STATE

    vcpus: tuple[VcpuEntry, ...]
    devices: Mapping[str, bytes] = field(default_factory=dict)
    gic: GicStateEntry | None = None


@dataclass(frozen=True)
class Verify:
    """Ask the destination to compute its digest."""

    type: ClassVar = RecordType.VERIFY


@dataclass(frozen=True)
class Digest:
    """The digest of all memory and tags (16 bytes)."""

    type: ClassVar = RecordType.DIGEST

    digest: bytes


@dataclass(frozen=True)
class Prepare:
    """Ask whether the destination has all of it: nothing more comes."""

    type: ClassVar = RecordType.PREPARE


@dataclass(frozen=True)
class Ready:
    """Everything has arrived and could run."""

    type: ClassVar = RecordType.READY


@dataclass(frozen=True)
class Commit:
    """Give the right to run to the destination; `run`: whether the guest was running."""

    type: ClassVar = RecordType.COMMIT

    run: bool


@dataclass(frozen=True)
class Running:
    """The destination has taken over."""

    type: ClassVar = RecordType.RUNNING


@dataclass(frozen=True)
class Abort:
    """Give up. From the destination also a promise: nothing was or will be started."""

    type: ClassVar = RecordType.ABORT

    reason: AbortReason
    text: str


@dataclass(frozen=True)
class KeepAlive:
    """Still at work on what the peer waits for."""

    type: ClassVar = RecordType.KEEPALIVE


@dataclass(frozen=True)
class ChannelRecord:
    """Open one more connection of a migration, number 1 and up, or accept it."""

    type: ClassVar = RecordType.CHANNEL

    migration_id: bytes
    number: int


@dataclass(frozen=True)
class EndRecord:
    """No more comes over this channel."""

    type: ClassVar = RecordType.END


@dataclass(frozen=True)
class Resume:
    """Resume after a broken connection; `rounds` have ended as the source knows."""

    type: ClassVar = RecordType.RESUME

    rounds: int


@dataclass(frozen=True)
class Held:
    """Pages of the round under way that are placed: bit n of `bits` (low first) is page n."""

    type: ClassVar = RecordType.HELD

    first_gpa: int
    page_count: int
    bits: bytes


@dataclass(frozen=True)
class Resumed:
    """End of the HELD records; `rounds` have ended as the destination knows."""

    type: ClassVar = RecordType.RESUMED

    rounds: int


Record: TypeAlias = (
    Hello
    | MachineRecord
    | Accept
    | Pages
    | Round
    | StateRecord
    | Verify
    | Digest
    | Prepare
    | Ready
    | Commit
    | Running
    | Abort
    | KeepAlive
    | ChannelRecord
    | EndRecord
    | Resume
    | Held
    | Resumed
)
