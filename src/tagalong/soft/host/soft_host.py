"""`Host` for the embedded machine: the access strategies' A64 code on any laptop.

The routines of native/arm64 run unchanged on an interpreter CPU of their own that uses the
guest's planes, in the caller's thread, while the guest runs in its thread: their races are real.
What a VMM gets from its kernel is modelled where it matters to tags; the rules are those that
real kernels showed (docs/design/access.md).
"""

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tagalong.access.host import (
    PSTATE_TCO,
    CallFlags,
    CallResult,
    CopyCall,
    Counts,
    Direction,
    Need,
    View,
)
from tagalong.access.routines import Routine, load_blob
from tagalong.errors import AddressError, HostError, TagalongError, UsageError
from tagalong.memory import Gpa, GuestMemory
from tagalong.mte import GRANULE_BYTES, tags
from tagalong.mte.pointers import address_of, logical_tag
from tagalong.mte.registers import TagCheckMode
from tagalong.soft.host.process import CODE_VA, PLAIN_VA, SCRATCH_VA, TAGGED_VA, Process
from tagalong.soft.host.stage1 import PAGE_BYTES
from tagalong.soft.host.thread import ThreadState, async_fault, fault_of
from tagalong.soft.native import NativeMachine

LARGEST_BYTES: Final = 4 << 20
_LINE_BYTES: Final = 64
_SCRATCH_BYTES: Final = LARGEST_BYTES + PAGE_BYTES  # room to align each array

# What the switches take on a real kernel: prctl three times, sigaltstack twice.
_CHECKS_OFF_CALLS: Final = 3
_STACK_APART_CALLS: Final = 2

_BASES: Final = {View.PLAIN: PLAIN_VA, View.TAGGED: TAGGED_VA}


class SoftHost:
    """Implements the Host Protocol; see there for what each method promises.

    `SoftMachine.host` makes it and closes it. `memory`: the guest's, whose CPUs know that their
    tags are shared. Raises HostError if the host has no memory for it.
    """

    def __init__(self, memory: GuestMemory) -> None:
        self._memory = memory
        self._counts = Counts()
        self._thread = ThreadState()
        self._lock = threading.Lock()
        self._borrowed = 0
        self._forbidden: list[range] = []
        self._closed = False
        self._blob = load_blob()
        with ExitStack() as undo:
            self._native = NativeMachine(1, 0)
            undo.callback(self._native.close)
            for region in self._memory.regions:
                self._native.add_ram(region)
            self._native.share_tags()
            self._process = Process(
                self._native, 0, self._memory.regions, self._blob.code, _SCRATCH_BYTES
            )
            undo.pop_all()

    @property
    def memory(self) -> GuestMemory:
        """Return the guest RAM that this host maps."""
        return self._memory

    @property
    def counts(self) -> Counts:
        """Return what was asked of the modelled kernel so far."""
        return self._counts

    def lacks(self, need: Need) -> str | None:  # noqa: ARG002 (the Protocol's)
        """Return None: this host has everything."""
        return None

    def address(self, view: View, gpa: Gpa, length_bytes: int) -> int:
        """Return where guest RAM is in `view`."""
        self._memory.locate(gpa, length_bytes)
        return _BASES[view] + gpa

    @property
    def largest_bytes(self) -> int:
        """Return how many bytes of arrays can be borrowed at a time."""
        return LARGEST_BYTES

    @contextmanager
    def borrow(self, array: NDArray[np.uint8]) -> Iterator[int]:
        """Give an array an address: it is copied in, and out again at the end."""
        start = self._borrowed
        end = start + -(-array.size // _LINE_BYTES) * _LINE_BYTES
        if end > _SCRATCH_BYTES:
            raise UsageError(f"{end:#x} bytes of arrays borrowed: at most {LARGEST_BYTES:#x}")
        window = self._process.scratch[start : start + array.size]
        window[:] = array.reshape(-1)
        self._borrowed = end
        try:
            yield SCRATCH_VA + start
        finally:
            self._borrowed = start
            if array.flags.writeable:
                array.reshape(-1)[:] = window

    def call(
        self, routine: Routine, *arguments: int, flags: CallFlags = CallFlags.NONE
    ) -> CallResult:
        """Run a routine in the calling thread."""
        with self._lock:
            self._require_open()
            self._set_up(flags)
            va = CODE_VA + self._blob.offsets[routine]
            self._process.enter(va, arguments, tco=self._thread.tco)
            return self._finish()

    def get_tagged_addr_ctrl(self) -> int:
        """Return the calling thread's control word."""
        self._counts.system_calls += 1
        return self._thread.ctrl

    def set_tagged_addr_ctrl(self, value: int) -> None:
        """Set the calling thread's control word."""
        self._counts.system_calls += 1
        self._thread.set_ctrl(value)

    def copy_tags(self, gpa: Gpa, tags: NDArray[np.uint8], direction: Direction) -> None:
        """Do what KVM_ARM_MTE_COPY_TAGS does."""
        self._counts.ioctls += 1
        length = tags.size * GRANULE_BYTES
        if gpa % PAGE_BYTES or length % PAGE_BYTES:
            raise HostError(
                f"KVM_ARM_MTE_COPY_TAGS of gpa {gpa:#x}+{length:#x} failed: "
                f"{os.strerror(errno.EINVAL)}"
            )
        _copy_tags(self._memory, gpa, tags, direction)

    def kernel_copy(
        self, copy_call: CopyCall, address: int, array: NDArray[np.uint8], direction: Direction
    ) -> int:
        """Copy as the kernel does: no tag is checked."""
        self._counts.system_calls += 1
        gpa = self._find(address, array.size)
        if gpa is None:
            return errno.EFAULT if copy_call is CopyCall.PROCESS_VM else errno.EIO
        if direction is Direction.FROM_GUEST:
            array[:] = self._memory.view(gpa, array.size)
        else:
            with self._memory.storing(gpa, array.size) as window:
                window[:] = array
        return 0

    def write_syscall(self, address: int, length_bytes: int) -> int:
        """Do write(2) of a host range: the kernel loads from it."""
        self._counts.system_calls += 1
        checked = self._thread.mode in (TagCheckMode.SYNC, TagCheckMode.ASYMMETRIC)
        return 0 if self._may_copy(address, length_bytes, checked=checked) else errno.EFAULT

    def read_syscall(self, address: int, data: bytes) -> int:
        """Do read(2) into a host range: the kernel stores to it."""
        self._counts.system_calls += 1
        checked = self._thread.mode is TagCheckMode.SYNC
        gpa = self._find(address, len(data))
        if gpa is None or not self._may_copy(address, len(data), checked=checked):
            return errno.EFAULT
        with self._memory.storing(gpa, len(data)) as window:
            window[:] = np.frombuffer(data, np.uint8)
        return 0

    def forbid(self, gpa: Gpa, length_bytes: int) -> None:
        """Do mprotect(PROT_NONE) to a page-aligned range, in both views: accesses fault.

        To see what becomes of a strategy that runs into it. Raises AddressError.
        """
        self._memory.locate(gpa, length_bytes)
        if gpa % PAGE_BYTES or length_bytes % PAGE_BYTES:
            raise AddressError(f"{gpa:#x}+{length_bytes:#x} is not aligned to {PAGE_BYTES:#x}")
        self._process.forbid(gpa, length_bytes)
        self._forbidden.append(range(gpa, gpa + length_bytes))

    def close(self) -> None:
        """Release the CPU and its memory."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._native.close()
                self._process.close()

    def _set_up(self, flags: CallFlags) -> None:
        # STACK_APART asks for nothing here: no signal is ever delivered on this CPU.
        checks_off = CallFlags.CHECKS_OFF in flags
        self._process.set_tag_check_mode(TagCheckMode.NONE if checks_off else self._thread.mode)
        if checks_off:
            self._counts.system_calls += _CHECKS_OFF_CALLS
        if CallFlags.STACK_APART in flags:
            self._counts.system_calls += _STACK_APART_CALLS

    def _finish(self) -> CallResult:
        trap = self._process.run()
        if not trap.is_return:
            return CallResult(0, fault_of(self._process, trap))
        if self._process.take_async_fault():
            return CallResult(0, async_fault(self._process, trap))
        self._thread.tco = bool(self._process.saved_pstate & PSTATE_TCO)
        return CallResult(self._process.x(0))

    def _find(self, address: int, length_bytes: int) -> Gpa | None:
        """Return the gpa of a host address, None if the process must not access it."""
        va = address_of(address)
        gpa = Gpa(va - (TAGGED_VA if va >= TAGGED_VA else PLAIN_VA))
        if any(gpa < part.stop and part.start < gpa + length_bytes for part in self._forbidden):
            return None
        try:
            self._memory.locate(gpa, length_bytes)
        except AddressError:
            return None
        return gpa

    def _may_copy(self, address: int, length_bytes: int, *, checked: bool) -> bool:
        """Return whether copy_from_user or copy_to_user get through, with PSTATE.TCO = 0."""
        if self._find(address, length_bytes) is None:
            return False
        va = address_of(address)
        if not checked or va < TAGGED_VA or not length_bytes:
            return True
        first = va - TAGGED_VA & ~(2 * GRANULE_BYTES - 1)
        last = -(-(va - TAGGED_VA + length_bytes) // (2 * GRANULE_BYTES)) * 2 * GRANULE_BYTES
        found = tags.unpack(self._memory.read_tags(Gpa(first), last - first))
        skipped = (va - TAGGED_VA - first) // GRANULE_BYTES
        count = -(-(va % GRANULE_BYTES + length_bytes) // GRANULE_BYTES)
        return bool((found[skipped : skipped + count] == logical_tag(address)).all())

    def _require_open(self) -> None:
        if self._closed:
            raise HostError("this host is closed")


def _copy_tags(
    memory: GuestMemory, gpa: Gpa, one_a_byte: NDArray[np.uint8], direction: Direction
) -> None:
    try:
        if direction is Direction.TO_GUEST:
            memory.write_tags(gpa, tags.pack(one_a_byte))
        else:
            length = one_a_byte.size * GRANULE_BYTES
            one_a_byte[:] = tags.unpack(memory.read_tags(gpa, length))
    except TagalongError as error:
        raise HostError(f"KVM_ARM_MTE_COPY_TAGS of gpa {gpa:#x} failed: {error}") from error
