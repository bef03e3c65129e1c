"""A host for unit tests: RAM with a tag plane, and no CPU: calls are answered by the test."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from tagalong.access import (
    CallFlags,
    CallResult,
    CopyCall,
    Counts,
    Direction,
    Need,
    Routine,
    View,
)
from tagalong.memory import Gpa, GuestMemory, Region
from tagalong.mte import PACKED_RATIO
from tagalong.mte.tags import pack, unpack

PAGE = 4096
BASE = Gpa(0x4000_0000)
LARGEST = 1 << 16
BASES = {View.PLAIN: 0x1_0000_0000, View.TAGGED: 0x2_0000_0000}


class FakeHost:
    """Lacks what `missing` says; `answer` decides what a routine gives, `calls` are all of them."""

    def __init__(self, pages: int = 64) -> None:
        self.memory = GuestMemory([Region.create(BASE, pages * PAGE)])
        self.counts = Counts()
        self.missing: dict[Need, str] = {}
        self.answer: Callable[[Routine, tuple[int, ...]], CallResult] = lambda *_: CallResult(0)
        self.calls: list[tuple[Routine, tuple[int, ...], CallFlags]] = []
        self.ctrl = 3
        self.kernel_says: dict[CopyCall, int] = {}
        self.copy_calls: list[CopyCall] = []

    @property
    def largest_bytes(self) -> int:
        return LARGEST

    def lacks(self, need: Need) -> str | None:
        return self.missing.get(need)

    def address(self, view: View, gpa: Gpa, length_bytes: int) -> int:
        _, offset = self.memory.locate(gpa, length_bytes)
        return BASES[view] + offset

    @contextmanager
    def borrow(self, array: NDArray[np.uint8]) -> Iterator[int]:
        yield array.ctypes.data

    def call(
        self, routine: Routine, *arguments: int, flags: CallFlags = CallFlags.NONE
    ) -> CallResult:
        self.calls.append((routine, arguments, flags))
        return self.answer(routine, arguments)

    def get_tagged_addr_ctrl(self) -> int:
        return self.ctrl

    def set_tagged_addr_ctrl(self, value: int) -> None:
        self.ctrl = value

    def copy_tags(self, gpa: Gpa, tags: NDArray[np.uint8], direction: Direction) -> None:
        self.counts.ioctls += 1
        if direction is Direction.TO_GUEST:
            self.memory.write_tags(gpa, pack(tags))
        else:
            tags[:] = unpack(self.memory.read_tags(gpa, tags.size // 2 * PACKED_RATIO))

    def kernel_copy(
        self, copy_call: CopyCall, address: int, array: NDArray[np.uint8], direction: Direction
    ) -> int:
        self.copy_calls.append(copy_call)
        if code := self.kernel_says.get(copy_call, 0):
            return code
        gpa = Gpa(BASE + address - BASES[View.TAGGED])
        if direction is Direction.TO_GUEST:
            self.memory.write(gpa, array)
        else:
            array[:] = self.memory.view(gpa, array.size)
        return 0

    def write_syscall(self, address: int, length_bytes: int) -> int:
        del address, length_bytes
        return 0

    def read_syscall(self, address: int, data: bytes) -> int:
        del address, data
        return 0

    def close(self) -> None:
        self.memory.close()
