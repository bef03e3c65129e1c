"""The host that is this arm64 process: a real CPU, a real kernel.

A fault inside a strategy is a value here, not a signal that ends the process. Every call of a
routine goes through native/arm64/guard.c: SIGSEGV or SIGBUS in the routine ends the call and is
recorded with si_code, si_addr and the CPU as it was; SP, PSTATE.TCO, the prctl and the signal mask
are restored in C before Python continues, so no exception can come in between. An asynchronous
tag check fault is fetched by a system call that is still within the guarded call: otherwise it
would arrive later, in code that has nothing to do with it. Faults of other code go to the handler
that was there before.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import platform
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Final

from tagalong._lazy import module_when_used
from tagalong._native import IS_ARM64, RoutineCall, library
from tagalong.access import system
from tagalong.access.host import (
    CallFlags,
    CallResult,
    CopyCall,
    Counts,
    Direction,
    Fault,
    Need,
    View,
)
from tagalong.access.routines import Blob, Routine, parse_blob
from tagalong.errors import HostError
from tagalong.memory import Gpa, GuestMemory, Region

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
else:
    np = module_when_used("numpy")

# Bounds how long signals wait for one call.
_LARGEST_BYTES: Final = 1 << 20

_NO_VM: Final = "the memory belongs to no KVM guest"

TagCopier = Callable[[Gpa, "NDArray[np.uint8]", Direction], None]
"""KVM_ARM_MTE_COPY_TAGS of the VM that the memory belongs to. Raises HostError."""


class NativeHost:
    """Implements the Host Protocol for `memory`, which the guest runs on.

    `copy_tags` is None without a VM. Views with PROT_MTE are made at their first use. RAM in a
    memfd is mapped a second time; private anonymous RAM cannot be: its one mapping gets PROT_MTE
    for good, and from then on there is no plain view of it. Several threads may use it at a time.
    """

    def __init__(self, memory: GuestMemory, copy_tags: TagCopier | None = None) -> None:
        self._memory = memory
        self._copy_tags = copy_tags
        self._counts = Counts()
        self._lock = threading.Lock()
        self._aliases: dict[Gpa, mmap.mmap] = {}
        self._tagged: dict[Gpa, int] = {}
        self._files: dict[str, int] = {}

    @property
    def memory(self) -> GuestMemory:
        """Return guest RAM."""
        return self._memory

    @property
    def counts(self) -> Counts:
        """Return what was asked of the kernel."""
        return self._counts

    @property
    def largest_bytes(self) -> int:
        """Return how much one call copies."""
        return _LARGEST_BYTES

    def lacks(self, need: Need) -> str | None:
        """Return why this host lacks `need`."""
        if not IS_ARM64:
            return f"this host is {platform.machine()}"
        attempts: Mapping[Need, Callable[[], str | None]] = {
            Need.MTE: lambda: None if system.has_mte() else "HWCAP2_MTE is not set",
            Need.SHARED_MEMORY: lambda: self._complaint(lambda region: region.data_fd),
            Need.PROT_MTE: lambda: self._complaint(self._map),
            Need.COPY_TAGS: lambda: None if self._copy_tags else _NO_VM,
            Need.KERNEL_COPY: self._why_no_kernel_copy,
        }
        return attempts[need]() if need in attempts else None

    def address(self, view: View, gpa: Gpa, length_bytes: int) -> int:
        """Return where guest memory is in `view`."""
        region, offset = self._memory.locate(gpa, length_bytes)
        if view is View.TAGGED:
            return self._map(region) + offset
        start = region.data_address
        if self._tagged.get(region.gpa) == start:
            raise HostError(f"RAM at gpa {region.gpa:#x} has one mapping, and that has PROT_MTE")
        return start + offset

    @contextmanager
    def borrow(self, array: NDArray[np.uint8]) -> Iterator[int]:
        """Yield the array's own address."""
        yield array.ctypes.data

    def call(
        self, routine: Routine, *arguments: int, flags: CallFlags = CallFlags.NONE
    ) -> CallResult:
        """Run a routine on this CPU."""
        result, system_calls = call_guarded(routine, *arguments, flags=flags)
        self._counts.system_calls += system_calls
        return result

    def get_tagged_addr_ctrl(self) -> int:
        """Ask the kernel."""
        self._counts.system_calls += 1
        return system.get_tagged_addr_ctrl()

    def set_tagged_addr_ctrl(self, value: int) -> None:
        """Tell the kernel."""
        self._counts.system_calls += 1
        system.set_tagged_addr_ctrl(value)

    def copy_tags(self, gpa: Gpa, tags: NDArray[np.uint8], direction: Direction) -> None:
        """Have KVM copy tags."""
        if self._copy_tags is None:
            raise HostError(f"KVM_ARM_MTE_COPY_TAGS: {_NO_VM}")
        self._counts.ioctls += 1
        self._copy_tags(gpa, tags, direction)

    def kernel_copy(
        self, copy_call: CopyCall, address: int, array: NDArray[np.uint8], direction: Direction
    ) -> int:
        """Have the kernel copy."""
        self._counts.system_calls += 1
        if copy_call is CopyCall.PROCESS_VM:
            return system.process_vm(direction, address, array.ctypes.data, array.size)
        copy = os.preadv if direction is Direction.FROM_GUEST else os.pwritev
        try:
            count = copy(self._file("/proc/self/mem"), [array.data], address)
        except OSError as error:
            return error.errno or errno.EIO
        return 0 if count == array.size else errno.EFAULT

    def write_syscall(self, address: int, length_bytes: int) -> int:
        """Write guest memory to a memfd."""
        return system.write(self._empty_file(b""), address, length_bytes)

    def read_syscall(self, address: int, data: bytes) -> int:
        """Read from a memfd into guest memory."""
        return system.read(self._empty_file(data), address, len(data))

    def close(self) -> None:
        """Unmap the second mappings, close the files."""
        with self._lock:
            for mapping in self._aliases.values():
                mapping.close()
            for fd in self._files.values():
                os.close(fd)
            self._aliases.clear()
            self._tagged.clear()
            self._files.clear()

    # --- small help ---

    def _map(self, region: Region) -> int:
        """Return where `region` is with PROT_MTE. Raises HostError."""
        with self._lock:
            if region.gpa not in self._tagged:
                self._tagged[region.gpa] = self._map_anew(region)
            return self._tagged[region.gpa]

    def _map_anew(self, region: Region) -> int:
        protection = mmap.PROT_READ | mmap.PROT_WRITE | system.PROT_MTE
        try:
            fd = region.data_fd
        except HostError:  # anonymous: the tags are in the pages, and LDG sees them from now on
            address = region.data_address
            system.protect(address, region.size_bytes, protection)
            return address
        try:
            alias = mmap.mmap(fd, region.size_bytes, mmap.MAP_SHARED, protection)
        except OSError as error:
            raise HostError(
                f"cannot map RAM at gpa {region.gpa:#x} with PROT_MTE: {error.strerror}"
            ) from error
        self._aliases[region.gpa] = alias
        start: int = np.frombuffer(alias, np.uint8).ctypes.data
        return start

    def _complaint(self, attempt: Callable[[Region], object]) -> str | None:
        try:
            for region in self._memory.regions:
                attempt(region)
        except HostError as error:
            return str(error)
        return None

    def _why_no_kernel_copy(self) -> str | None:
        word = np.zeros(1, np.uint8)
        codes = {
            copy_call: self.kernel_copy(
                copy_call, word.ctypes.data, word.copy(), Direction.FROM_GUEST
            )
            for copy_call in CopyCall
        }
        if 0 in codes.values():
            return None
        return ", ".join(
            f"{copy_call.value}: {os.strerror(code)}" for copy_call, code in codes.items()
        )

    def _empty_file(self, data: bytes) -> int:
        """Return a memfd that holds `data`, positioned at its start."""
        fd = self._file("scratch")
        os.ftruncate(fd, 0)
        os.pwrite(fd, data, 0)
        os.lseek(fd, 0, os.SEEK_SET)
        return fd

    def _file(self, name: str) -> int:
        with self._lock:
            if name not in self._files:
                self._files[name] = (
                    os.open(name, os.O_RDWR | os.O_CLOEXEC)
                    if name.startswith("/")
                    else os.memfd_create(name, os.MFD_CLOEXEC)
                )
            return self._files[name]


def call_guarded(
    routine: Routine, *arguments: int, flags: CallFlags = CallFlags.NONE
) -> tuple[CallResult, int]:
    """Run a routine on this CPU, which must be one of arm64; a fault in it is a value.

    Returns its result and how many system calls that took. Raises HostError if it cannot be run.
    """
    call = RoutineCall(routine=_blob().offsets[routine], flags=flags.value)
    call.arguments[: len(arguments)] = arguments
    code = library().ta_call_guarded(ctypes.byref(call))
    if code:
        raise HostError(f"routine {routine.value} could not be run: {os.strerror(code)}")
    if call.signal:
        fault = Fault(call.signal, call.code, call.address, call.pc, call.sp, call.pstate)
        return CallResult(0, fault), call.system_calls
    return CallResult(call.value), call.system_calls


@cache
def _blob() -> Blob:
    """Return the index of the routines that are linked into the library."""
    start, size = library().ta_routines(), library().ta_routines_bytes()
    return parse_blob(ctypes.string_at(start, size))
