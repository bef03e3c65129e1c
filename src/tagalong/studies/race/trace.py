"""A strategy's look at a granule, as the code that it has the CPU run.

The explorer needs a strategy as instructions, and a second, hand-written list of them could
differ from the strategy. Strategies are written against `Host`, so `Trace` implements `Host`
and runs nothing: it records which routines are called with which arguments, and records a
system call as the routine that does the same. After a CPU has run the recorded calls, the
strategy runs again on a trace that returns memory as those calls left it. What the look
returned is therefore what the strategy's own code makes of that memory.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tagalong.access.choice import STRATEGIES
from tagalong.access.host import (
    CallFlags,
    CallResult,
    CopyCall,
    Counts,
    Direction,
    Need,
    View,
    tagged_addr_ctrl,
)
from tagalong.access.routines import Routine, load_blob
from tagalong.errors import HostError, UsageError
from tagalong.memory import Gpa, GuestMemory, Plane, Region
from tagalong.mte import GRANULE_BYTES, PACKED_RATIO, TAGS_PER_BYTE
from tagalong.mte.registers import TagCheckMode
from tagalong.mte.tags import get_tag, unpack
from tagalong.soft.host.process import CODE_VA, PLAIN_VA, TAGGED_VA
from tagalong.soft.host.stage1 import PAGE_BYTES
from tagalong.soft.host.thread import ThreadState
from tagalong.studies.race.code import LOOK_BYTES, RACED_GPA, Order, VmmCall, VmmCode
from tagalong.studies.race.explore import Reading
from tagalong.studies.race.world import Granule, World, scratch_address

_BASES: Final = {View.PLAIN: PLAIN_VA, View.TAGGED: TAGGED_VA}
_LINE_BYTES: Final = 64


def strategy_code(name: str, order: Order, mode: TagCheckMode) -> VmmCode:
    """Return the code of the look of strategy `name`, in a thread that checks in `mode`.

    Raises UsageError for an unknown name.
    """
    trace = Trace(mode)
    _look(name, order, trace)
    return VmmCode(name, tuple(trace.calls), scratch=bytes(trace.scratch))


def strategy_reading(name: str, order: Order, world: World) -> Reading:
    """Return what the strategy's look has read in `world`, whose VMM is done."""
    return _look(name, order, Trace(TagCheckMode.NONE, world.scratch()))


def _look(name: str, order: Order, trace: "Trace") -> Reading:
    if name not in STRATEGIES:
        raise UsageError(f"unknown access strategy {name!r}; there are {', '.join(STRATEGIES)}")
    strategy = STRATEGIES[name](trace)
    data = np.zeros(GRANULE_BYTES, np.uint8)
    packed = np.zeros(LOOK_BYTES // PACKED_RATIO, np.uint8)
    if order is Order.TAGS_FIRST:
        strategy.read_tags(RACED_GPA, packed)
        strategy.read(RACED_GPA, data)
    else:
        strategy.read(RACED_GPA, data)
        strategy.read_tags(RACED_GPA, packed)
    trace.close()
    return (Granule(get_tag(packed, 0), data.tobytes()),)


class Trace:
    """Implements the Host Protocol for reading; `after`: memory as the recorded calls left it.

    Guest RAM is two granules, declared as one page: a look at a page's tags is then as short
    as one byte of packed tags allows.
    """

    def __init__(self, mode: TagCheckMode, after: bytes | None = None) -> None:
        self.calls: list[VmmCall] = []
        self.scratch = bytearray(after or bytes(PAGE_BYTES))
        self._is_replay = after is not None
        self._used = 0
        self._thread = ThreadState()
        self._thread.set_ctrl(tagged_addr_ctrl(mode))
        planes = Plane("trace", LOOK_BYTES), Plane("trace-tags", LOOK_BYTES)
        self._memory = GuestMemory([Region(RACED_GPA, LOOK_BYTES, *planes)])

    @property
    def memory(self) -> GuestMemory:
        """Return guest RAM of the right size at the right gpa; its content is not used."""
        return self._memory

    @property
    def counts(self) -> Counts:
        """Return nothing counted."""
        return Counts()

    def lacks(self, need: Need) -> str | None:  # noqa: ARG002 (the Protocol's)
        """Return None."""
        return None

    def address(self, view: View, gpa: Gpa, length_bytes: int) -> int:
        """Return where the guest's granule is in a process of the interpreter."""
        self._memory.locate(gpa, length_bytes)
        return _BASES[view] + gpa

    @property
    def largest_bytes(self) -> int:
        """Return the size of the scratch memory."""
        return PAGE_BYTES

    @contextmanager
    def borrow(self, array: NDArray[np.uint8]) -> Iterator[int]:
        """Lend an array a place of its own, which no later array gets again."""
        start = self._allocate(array.size)
        if not self._is_replay:
            self.scratch[start : start + array.size] = array.tobytes()
        yield scratch_address(start)
        array[:] = np.frombuffer(self.scratch, np.uint8, array.size, start)

    def call(
        self, routine: Routine, *arguments: int, flags: CallFlags = CallFlags.NONE
    ) -> CallResult:
        """Record a call."""
        off = CallFlags.CHECKS_OFF in flags
        self._note(routine.value, routine, arguments, TagCheckMode.NONE if off else None)
        return CallResult(0)

    def get_tagged_addr_ctrl(self) -> int:
        """Return the thread's control word."""
        return self._thread.ctrl

    def set_tagged_addr_ctrl(self, value: int) -> None:
        """Set the thread's control word for later calls."""
        self._thread.set_ctrl(value)

    def copy_tags(self, gpa: Gpa, tags: NDArray[np.uint8], direction: Direction) -> None:
        """Record what KVM_ARM_MTE_COPY_TAGS does: one LDG per granule."""
        _only_from_guest(direction)
        packed = np.zeros(tags.size // TAGS_PER_BYTE, np.uint8)
        address = self.address(View.TAGGED, gpa, packed.size * PACKED_RATIO)
        with self.borrow(packed) as buffer:
            arguments = buffer, address, packed.size
            self._note("KVM_ARM_MTE_COPY_TAGS", Routine.READ_TAGS, arguments, TagCheckMode.NONE)
        tags[:] = unpack(packed)

    def kernel_copy(
        self, copy_call: CopyCall, address: int, array: NDArray[np.uint8], direction: Direction
    ) -> int:
        """Record what the kernel does: loads that are not checked."""
        _only_from_guest(direction)
        with self.borrow(array) as buffer:
            arguments = buffer, address, array.size
            self._note(copy_call.value, Routine.COPY, arguments, TagCheckMode.NONE)
        return 0

    def write_syscall(self, address: int, length_bytes: int) -> int:
        """Raise HostError: a look passes no memory to system calls."""
        raise HostError(f"write(2) of {address:#x}+{length_bytes:#x} has no instructions to race")

    def read_syscall(self, address: int, data: bytes) -> int:
        """Raise HostError, as write_syscall does."""
        raise HostError(f"read(2) of {len(data)} bytes to {address:#x} has no instructions to race")

    def close(self) -> None:
        """Release the memory."""
        self._memory.close()

    def _allocate(self, size_bytes: int) -> int:
        start = self._used
        self._used += -(-size_bytes // _LINE_BYTES) * _LINE_BYTES
        if self._used > PAGE_BYTES:
            raise UsageError(
                f"the look borrows {self._used:#x} bytes of scratch memory; there are "
                f"{PAGE_BYTES:#x}"
            )
        return start

    def _note(
        self, what: str, routine: Routine, arguments: tuple[int, ...], mode: TagCheckMode | None
    ) -> None:
        va = CODE_VA + load_blob().offsets[routine]
        self.calls.append(VmmCall(what, va, arguments, self._thread.mode if mode is None else mode))


def _only_from_guest(direction: Direction) -> None:
    if direction is not Direction.FROM_GUEST:
        raise HostError("a look at guest memory writes nothing to it")
