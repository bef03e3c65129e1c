"""What every access strategy promises, and the code that they share."""

from __future__ import annotations

from contextlib import AbstractContextManager, contextmanager
from enum import Enum
from typing import TYPE_CHECKING, ClassVar, Protocol

from tagalong._lazy import module_when_used
from tagalong.access.host import CallFlags, Fault, Host, Need, View
from tagalong.access.routines import Routine
from tagalong.errors import AddressError, UsageError
from tagalong.memory import Gpa
from tagalong.mte import PACKED_RATIO

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray
else:
    np = module_when_used("numpy")


class Hazard(Enum):
    """What is wrong with a strategy; the values are for people."""

    LOSES_CHECKING = "the thread's other accesses are not checked meanwhile"
    RACES_WITH_GUEST = "faults when the guest changes a tag between LDG and the access"
    NOT_FOR_SYSCALLS = "the memory cannot be passed to write(2), read(2) or sendmsg(2)"
    POPULATES_MEMORY = "reading a page that was never used allocates it"
    THREAD_AFFINE = "what it switches is a state of the calling thread alone"
    HOLDS_SIGNALS = "signals wait until the copy is over, as there is no stack"
    NOT_WHILE_LOGGED = "newer kernels, 6.12.107 among them, set no tags while the dirty log is on"


class Strategy(Protocol):
    """A way to touch guest RAM: its data and its tags. Made with the host it runs on.

    Ranges lie within one region; those of tags are whole pages. Data may start and end
    anywhere. A tag check fault, or any other fault of an access, is returned as a value, with
    an unknown part of the range done; SP, PSTATE.TCO and the thread's prctl are as before.
    All methods raise AddressError for a range that is not guest RAM or is misaligned,
    UsageError for an array that is not one row of contiguous uint8, and HostError for what
    the host refuses.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    needs: ClassVar[frozenset[Need]]
    hazards: ClassVar[frozenset[Hazard]]
    view: ClassVar[View]
    """The mapping that data are copied through."""

    def __init__(self, host: Host) -> None: ...

    def read(self, gpa: Gpa, target: NDArray[np.uint8]) -> Fault | None:
        """Fill `target`, shape (n,), with the data from `gpa` on."""
        ...

    def write(self, gpa: Gpa, source: NDArray[np.uint8]) -> Fault | None:
        """Write `source`, shape (n,), from `gpa` on; tags stay."""
        ...

    def read_tags(self, gpa: Gpa, packed: NDArray[np.uint8]) -> Fault | None:
        """Fill `packed`, shape (n / 32,), with the tags of n bytes, low nibble first."""
        ...

    def write_tags(self, gpa: Gpa, packed: NDArray[np.uint8]) -> Fault | None:
        """Set the tags of n bytes from `packed`, shape (n / 32,); data stay."""
        ...

    def write_zeros(self, gpa: Gpa, packed: NDArray[np.uint8]) -> Fault | None:
        """Zero n bytes and set their tags from `packed`, shape (n / 32,)."""
        ...

    def lend(self, gpa: Gpa, length_bytes: int) -> AbstractContextManager[int]:
        """Yield an address of the data for a system call, within a `with` block.

        The best that the strategy has; the kernel may reject it (Hazard.NOT_FOR_SYSCALLS). The
        range is in the dirty log, since the call may store to it.
        """
        ...


class Mapped:
    """Data by a pair of routines through one view, tags by LDG and STG through the tagged one.

    Classes that inherit say which.
    """

    view: ClassVar[View] = View.TAGGED
    load: ClassVar[Routine] = Routine.COPY
    store: ClassVar[Routine] = Routine.COPY
    flags: ClassVar[CallFlags] = CallFlags.NONE

    def __init__(self, host: Host) -> None:
        self.host = host

    def read(self, gpa: Gpa, target: NDArray[np.uint8]) -> Fault | None:
        """Fill `target` with data."""
        address = self.host.address(self.view, gpa, target.size)
        for at, part in pieces(target, self.host.largest_bytes):
            with self.host.borrow(part) as buffer:
                result = self.host.call(
                    self.load, buffer, address + at, part.size, flags=self.flags
                )
            if result.fault is not None:
                return result.fault
        return None

    def write(self, gpa: Gpa, source: NDArray[np.uint8]) -> Fault | None:
        """Write data."""
        address = self.host.address(self.view, gpa, source.size)
        for at, part in pieces(source, self.host.largest_bytes):
            with storing(self.host, gpa + at, part.size), self.host.borrow(part) as buffer:
                result = self.host.call(
                    self.store, address + at, buffer, part.size, flags=self.flags
                )
            if result.fault is not None:
                return result.fault
        return None

    def read_tags(self, gpa: Gpa, packed: NDArray[np.uint8]) -> Fault | None:
        """Read tags by LDG."""
        address = self._tagged(gpa, packed)
        for at, part in pieces(packed, self.host.largest_bytes):
            with self.host.borrow(part) as buffer:
                result = self.host.call(
                    Routine.READ_TAGS, buffer, address + at * PACKED_RATIO, part.size
                )
            if result.fault is not None:
                return result.fault
        return None

    def write_tags(self, gpa: Gpa, packed: NDArray[np.uint8]) -> Fault | None:
        """Set tags by STG and ST2G."""
        return self._store_tags(Routine.WRITE_TAGS, gpa, packed)

    def write_zeros(self, gpa: Gpa, packed: NDArray[np.uint8]) -> Fault | None:
        """Zero data and set tags by STZG and STZ2G, which are not checked."""
        return self._store_tags(Routine.WRITE_ZEROS, gpa, packed)

    def lend(self, gpa: Gpa, length_bytes: int) -> AbstractContextManager[int]:
        """Yield the address in the view that data go through."""
        return self._lend_marked(gpa, length_bytes)

    @contextmanager
    def _lend_marked(self, gpa: Gpa, length_bytes: int) -> Iterator[int]:
        address = self.host.address(self.view, gpa, length_bytes)
        with storing(self.host, gpa, length_bytes):
            yield address

    def _store_tags(self, routine: Routine, gpa: Gpa, packed: NDArray[np.uint8]) -> Fault | None:
        address = self._tagged(gpa, packed)
        for at, part in pieces(packed, self.host.largest_bytes):
            first, length = gpa + at * PACKED_RATIO, part.size * PACKED_RATIO
            with storing(self.host, first, length), self.host.borrow(part) as buffer:
                result = self.host.call(routine, address + at * PACKED_RATIO, buffer, part.size)
            if result.fault is not None:
                return result.fault
        return None

    def _tagged(self, gpa: Gpa, packed: NDArray[np.uint8]) -> int:
        check_pages(self.host, gpa, packed)
        return self.host.address(View.TAGGED, gpa, packed.size * PACKED_RATIO)


def storing(host: Host, gpa: int, length_bytes: int) -> AbstractContextManager[object]:
    """Put a range of guest RAM into the dirty log, for a block that stores to it somehow.

    No access of the host's own is seen by a machine (memory.stores says why and how). Raises
    AddressError for a range that is not in one region.
    """
    return host.memory.storing(Gpa(gpa), length_bytes)


def check_pages(host: Host, gpa: Gpa, packed: NDArray[np.uint8]) -> None:
    """Raise AddressError unless `packed` are the tags of whole pages."""
    page = host.memory.regions[0].page_size_bytes
    length = packed.size * PACKED_RATIO
    if (gpa | length) % page:
        raise AddressError(f"tags of {gpa:#x}+{length:#x}: not aligned to {page:#x}")


def pieces(array: NDArray[np.uint8], largest: int) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Yield (offset, view) of parts of `array` that are no larger than `largest` bytes.

    Raises UsageError for what has no address that routines could use.
    """
    if array.dtype != np.uint8 or array.ndim != 1 or not array.flags.c_contiguous:
        raise UsageError(
            "guest memory is copied from and to one contiguous row of uint8, not "
            f"{array.dtype} of shape {array.shape}"
        )
    for at in range(0, array.size, largest):
        yield at, array[at : at + largest]
