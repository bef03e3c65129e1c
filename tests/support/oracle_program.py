"""A test program of the oracle: instructions in chunks, and the state that it starts from."""

from dataclasses import dataclass, replace
from enum import Enum

from tests.support import a64
from tests.support.oracle_layout import EPILOGUE_BRANCHES, slot_address

TCO_BIT = 1 << 25
NZCV_MASK = 0xF << 28
VECTOR_BYTES = 16
VECTORS_BYTES = 32 * VECTOR_BYTES


class TagCheckFaults(Enum):
    """What a tag mismatch does; the values are Linux's PR_MTE_TCF_* bits."""

    NONE = 0
    SYNC = 2
    ASYNC = 4


@dataclass(frozen=True)
class State:
    """What a program starts from. `tags` has one byte for each granule of DATA."""

    registers: tuple[int, ...]  # x0..x30
    sp: int
    pstate: int  # NZCV and TCO
    tags: bytes
    faults: TagCheckFaults = TagCheckFaults.SYNC
    exclude: int = 0  # GCR_EL1.Exclude
    vectors: bytes = bytes(VECTORS_BYTES)  # V0..V31
    fpcr: int = 0
    fpsr: int = 0


@dataclass(frozen=True)
class Program:
    """Chunks of instructions; a chunk may be dropped without giving the others a new meaning.

    `privileged` programs run at EL1 with SP_EL0 on our side, the others at EL0; the oracle
    runs both at EL0.
    """

    name: str
    chunks: tuple[tuple[int, ...], ...]
    state: State
    privileged: bool = False

    @property
    def words(self) -> list[int]:
        """Return the instructions without the epilogue."""
        return [word for chunk in self.chunks for word in chunk]

    @property
    def image(self) -> bytes:
        """Return the whole slot's code, epilogue included."""
        epilogue = [a64.b(4)] * EPILOGUE_BRANCHES + [a64.udf(0)]
        return b"".join(word.to_bytes(4, "little") for word in [*self.words, *epilogue])

    def end(self, slot: int) -> int:
        """Return the address of the instruction that ends the program in `slot`."""
        return slot_address(slot) + len(self.image) - 4

    def word_at(self, slot: int, pc: int) -> int:
        """Return the instruction at `pc`."""
        return self.words[(pc - slot_address(slot)) // 4]

    def without(self, first: int, count: int) -> "Program":
        """Return the program less `count` chunks from `first` on."""
        return replace(self, chunks=self.chunks[:first] + self.chunks[first + count :])
