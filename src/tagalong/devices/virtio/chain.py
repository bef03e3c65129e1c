"""Descriptor chains: a walk that checks each descriptor before it is used.

A driver may be hostile, and it changes memory while a device reads it. So each descriptor is read
once; a walk ends after as many of them as the queue has; addresses and lengths are checked when
they are read; and nothing is copied that a device did not ask for. Section 2.7.5.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager

from tagalong.devices.virtio.abi import DESCRIPTOR, MAX_CHAIN_BYTES, DescriptorFlag
from tagalong.devices.virtio.ram import Piece, RingError, pieces_of, storing
from tagalong.memory import GuestMemory


class Buffers:
    """The readable or the writable buffers of a chain as one row of bytes."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self.pieces = tuple(pieces)
        self.size_bytes = sum(piece.length_bytes for piece in pieces)

    def part(self, start: int, length_bytes: int) -> "Buffers":
        """Return a part of them. Raises RingError if they are shorter."""
        if start + length_bytes > self.size_bytes:
            raise RingError(
                f"a request needs {start + length_bytes} bytes, its buffers have {self.size_bytes}"
            )
        return Buffers(list(_parts(self.pieces, start, length_bytes)))

    def read(self) -> bytes:
        """Return a copy of all of it; the caller has bounded the size."""
        return b"".join(bytes(piece.view()) for piece in self.pieces)

    def views(self) -> list[memoryview]:
        """Return views for reading."""
        return [piece.view() for piece in self.pieces]

    def storing(self) -> AbstractContextManager[list[memoryview]]:
        """Yield writable views for stores within a `with` block, which are in the dirty log."""
        return storing(self.pieces)

    def write(self, data: bytes) -> None:
        """Store `data` at the start. Raises RingError if it does not fit."""
        with self.part(0, len(data)).storing() as views:
            at = 0
            for view in views:
                view[:] = data[at : at + len(view)]
                at += len(view)


class Chain:
    """A request: `head` names it in the used ring; `readable` comes from the driver."""

    def __init__(self, head: int, readable: Sequence[Piece], writable: Sequence[Piece]) -> None:
        self.head = head
        self.readable = Buffers(readable)
        self.writable = Buffers(writable)


class ChainReader:
    """Reads chains out of the descriptor table of one queue.

    `table` has `size` descriptors. `indirect`: tables outside of it were negotiated.
    """

    def __init__(
        self, memory: GuestMemory, table: memoryview, size: int, *, indirect: bool
    ) -> None:
        self._memory = memory
        self._table = table
        self._size = size
        self._indirect = indirect

    def read(self, head: int) -> Chain:
        """Return the chain that begins with descriptor `head`. Raises RingError."""
        if head >= self._size:
            raise RingError(f"descriptor {head} of a queue of {self._size}")
        pieces: dict[bool, list[Piece]] = {False: [], True: []}
        total = 0
        for gpa, length, is_writable in self._walk(head):
            if pieces[True] and not is_writable:
                raise RingError(f"chain {head}: a readable buffer behind a writable one")
            total += length
            if total > MAX_CHAIN_BYTES:
                raise RingError(f"chain {head}: more than {MAX_CHAIN_BYTES:#x} bytes")
            pieces[is_writable] += pieces_of(self._memory, gpa, length)
        return Chain(head, pieces[False], pieces[True])

    def _walk(self, head: int) -> Iterator[tuple[int, int, bool]]:
        """Yield address, length and whether it is writable, of each buffer of a chain."""
        table, size, index = self._table, self._size, head
        is_inside = False  # an indirect table
        for _ in range(self._size + 1):  # one more for the descriptor that refers to a table
            gpa, length, flags, following = DESCRIPTOR.unpack_from(table, index * DESCRIPTOR.size)
            if flags & DescriptorFlag.INDIRECT:
                if is_inside:
                    raise RingError(f"chain {head}: an indirect table inside an indirect table")
                table, size = self._enter(head, gpa, length, flags)
                index, is_inside = 0, True
                continue
            yield gpa, length, bool(flags & DescriptorFlag.WRITE)
            if not flags & DescriptorFlag.NEXT:
                return
            if following >= size:
                raise RingError(f"chain {head}: descriptor {following} of {size}")
            index = following
        raise RingError(f"chain {head}: more than {self._size} descriptors, or a loop")

    def _enter(self, head: int, gpa: int, length: int, flags: int) -> tuple[memoryview, int]:
        """Return an indirect table and its number of descriptors."""
        if not self._indirect:
            raise RingError(f"chain {head}: an indirect table, which was not negotiated")
        if flags & DescriptorFlag.NEXT:
            raise RingError(f"chain {head}: a descriptor behind an indirect table")
        count, rest = divmod(length, DESCRIPTOR.size)
        if rest or not 1 <= count <= self._size:
            raise RingError(
                f"chain {head}: an indirect table of {length} bytes; a queue of {self._size} "
                f"takes 1 to {self._size} descriptors of {DESCRIPTOR.size}"
            )
        pieces = list(pieces_of(self._memory, gpa, length))
        if len(pieces) != 1:
            raise RingError(f"chain {head}: an indirect table across two regions of RAM")
        return pieces[0].view(), count


def _parts(pieces: Sequence[Piece], start: int, length_bytes: int) -> Iterator[Piece]:
    """Yield what of `pieces` is in a byte range of their row."""
    at, end = 0, start + length_bytes
    for piece in pieces:
        low, high = max(start, at), min(end, at + piece.length_bytes)
        if low < high:
            yield piece.part(low - at, high - low)
        at += piece.length_bytes
