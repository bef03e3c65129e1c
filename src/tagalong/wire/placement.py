"""Where the bytes of received batches land: the one object that both ends of a receive ask.

A batch's tags and its uncompressed data go straight from the transport to memory that a
`Placement` names, so that the data of most batches are received into guest RAM without a copy.
What has landed is part of the record: `Pages.data` is what `Placement.data` returned, filled.
So whoever named the memory also recognises it, and no record has to say "is there already".
"""

from collections.abc import Sequence
from typing import Protocol

from tagalong.wire.planes import Batch


class Placement(Protocol):
    """Names the memory that the batches of one connection are received into.

    One connection asks in one thread, at most once per plane and batch, and always for `tags`
    before `data`. What was returned must stay valid until the next batch begins.
    """

    def tags(self, size_bytes: int) -> memoryview:
        """Return writable memory of `size_bytes` for a batch's tags as they are on the wire.

        Asked before the checksum over the batch's head was compared: so it must never be guest
        memory. It may be the same memory for every batch.
        """
        ...

    def data(self, batch: Batch) -> Sequence[memoryview]:
        """Return writable memory for all uncompressed data of `batch`, whose head is sound.

        In order, in pieces of whole pages, `batch.ram_bytes` in total.
        """
        ...


class OwnMemory:
    """Receives each batch into new memory, wherever its pages belong in the guest."""

    def tags(self, size_bytes: int) -> memoryview:
        """As Placement."""
        return memoryview(bytearray(size_bytes))

    def data(self, batch: Batch) -> Sequence[memoryview]:
        """As Placement: in one piece."""
        return (memoryview(bytearray(batch.ram_bytes)),)
