"""Guest RAM as a device accesses it: by views, with every store marked (memory/stores.py).

Rings and buffers are accessed directly and not through a machine's access strategy: the kernel
copies most of them, in the system calls of a disk or a socket. An index of a ring is read and
written in one access of 16 bits, because a vCPU reads and writes it at the same time.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from tagalong._native import library
from tagalong.memory import GuestMemory, Region


class RingError(Exception):
    """A driver broke the rules of the specification: the device stops, and says why.

    Never leaves this package: it becomes DEVICE_NEEDS_RESET.
    """


def memory_barrier() -> None:
    """Order all accesses to RAM before this with all that follow, as vCPUs see them."""
    library().ta_memory_barrier()


@dataclass(frozen=True)
class Piece:
    """A byte range of one region: `offset` from its start, `length_bytes`."""

    region: Region
    offset: int
    length_bytes: int

    def part(self, start: int, length_bytes: int) -> "Piece":
        """Return `length_bytes` of it from byte `start` on; the caller has checked both."""
        return Piece(self.region, self.offset + start, length_bytes)

    def view(self) -> memoryview:
        """Return its bytes, writable; stores through it are for a `storing` block."""
        return self.region.raw_data[self.offset : self.offset + self.length_bytes].data

    @property
    def pages(self) -> tuple[int, int]:
        """Return the first page that it touches, and their number."""
        page = self.region.page_size_bytes
        first = self.offset // page
        return first, -(-(self.offset + self.length_bytes) // page) - first


def pieces_of(memory: GuestMemory, gpa: int, length_bytes: int) -> Iterator[Piece]:
    """Yield the parts of a gpa range, one per region that it touches.

    Raises RingError for a range that is not all in RAM.
    """
    end = gpa + length_bytes
    at = gpa
    for region in memory.regions:
        if at >= end:
            return
        if region.gpa <= at < region.end:
            size = min(end, region.end) - at
            yield Piece(region, at - region.gpa, size)
            at += size
    if at < end:
        raise RingError(f"[{gpa:#x}, {end:#x}) is not in guest RAM")


@contextmanager
def storing(pieces: Sequence[Piece]) -> Iterator[list[memoryview]]:
    """Yield writable views of `pieces` for stores within the block: mark, store, mark."""
    with ExitStack() as stack:
        for piece in pieces:
            stack.enter_context(piece.region.stores.storing(*piece.pages))
        yield [piece.view() for piece in pieces]


class RamArea:
    """A range in one region that is accessed for long, such as a ring; of an even length.

    Raises RingError if it is not in RAM, or misaligned.
    """

    def __init__(
        self, memory: GuestMemory, what: str, gpa: int, length_bytes: int, alignment_bytes: int
    ) -> None:
        if gpa % alignment_bytes:
            raise RingError(f"{what} at gpa {gpa:#x} is not a multiple of {alignment_bytes}")
        pieces = list(pieces_of(memory, gpa, length_bytes))
        if len(pieces) != 1:
            raise RingError(f"{what} at gpa {gpa:#x} is not in one region of guest RAM")
        (self._piece,) = pieces
        self.bytes = self._piece.view()
        self._words = self.bytes.cast("H")

    def load16(self, offset: int) -> int:
        """Return the 16-bit value at `offset`, an even number, in one access."""
        return int(self._words[offset // 2])

    def store16(self, offset: int, value: int) -> None:
        """Store a 16-bit value at `offset`, an even number, in one access."""
        with self._marking(offset, 2):
            self._words[offset // 2] = value

    def store(self, offset: int, data: bytes) -> None:
        """Store `data` at `offset`; a vCPU may see a part of it first."""
        with self._marking(offset, len(data)):
            self.bytes[offset : offset + len(data)] = data

    @contextmanager
    def _marking(self, offset: int, length_bytes: int) -> Iterator[None]:
        piece = self._piece.part(offset, length_bytes)
        with piece.region.stores.storing(*piece.pages):
            yield
