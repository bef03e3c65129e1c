"""What an access strategy needs of the machine that it runs on.

A strategy is written once, against `Host`. There are two: `NativeHost` is this arm64 process
on a real kernel; the embedded machine's host runs the same routines on a second interpreter
CPU that shares the guest's memory, and models the kernel's rules. One set of tests
(tests/access) holds both to the same answers: what a strategy needs and which hazards it has
are data, and each hazard is shown where it is said and nowhere else.

Addresses here are virtual addresses of the host's user space, without a logical tag.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, Flag, auto
from typing import TYPE_CHECKING, Final, Protocol

from tagalong._lazy import module_when_used

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import numpy as np
    from numpy.typing import NDArray

    from tagalong.access.routines import Routine
    from tagalong.memory import Gpa, GuestMemory
    from tagalong.mte import registers
else:
    registers = module_when_used("tagalong.mte.registers")

# prctl(PR_SET_TAGGED_ADDR_CTRL), include/uapi/linux/prctl.h.
PR_TAGGED_ADDR_ENABLE: Final = 1 << 0
PR_MTE_TCF_SYNC: Final = 1 << 1
PR_MTE_TCF_ASYNC: Final = 1 << 2
PR_MTE_TCF_MASK: Final = PR_MTE_TCF_SYNC | PR_MTE_TCF_ASYNC

SIGBUS: Final = 7
SIGSEGV: Final = 11
# include/uapi/asm-generic/siginfo.h
SEGV_MAPERR: Final = 1
SEGV_ACCERR: Final = 2
SEGV_MTEAERR: Final = 8
SEGV_MTESERR: Final = 9

PSTATE_TCO: Final = 1 << 25

_CODES: Final = {
    (SIGSEGV, SEGV_MAPERR): "SEGV_MAPERR",
    (SIGSEGV, SEGV_ACCERR): "SEGV_ACCERR",
    (SIGSEGV, SEGV_MTEAERR): "SEGV_MTEAERR",
    (SIGSEGV, SEGV_MTESERR): "SEGV_MTESERR",
}


class Need(Enum):
    """What a strategy requires of a host; the values are for people."""

    ARM64 = "an arm64 host"
    MTE = "a CPU and kernel with MTE for user space"
    SHARED_MEMORY = "guest RAM in shared memory, for a second mapping"
    PROT_MTE = "a mapping of guest RAM with PROT_MTE"
    COPY_TAGS = "KVM_ARM_MTE_COPY_TAGS"
    KERNEL_COPY = "process_vm_readv or /proc/self/mem"


class View(Enum):
    """The mappings of guest RAM in a host."""

    PLAIN = "without PROT_MTE"
    """Never tag checked; its tags read as zero and cannot be written."""
    TAGGED = "with PROT_MTE"
    """Tag checked in the thread's mode; LDG and STG access the guest's tags."""


class CallFlags(Flag):
    """What a call needs around it; set up and undone by the host, faults included."""

    NONE = 0
    CHECKS_OFF = auto()
    """prctl: PR_MTE_TCF_NONE for the calling thread, the old value afterwards."""
    STACK_APART = auto()
    """SP leaves the stack: signals are blocked, a fault's handler has a stack of its own."""


class CopyCall(Enum):
    """A system call by which the kernel copies, without checking tags."""

    PROCESS_VM = "process_vm_readv"
    PROC_MEM = "/proc/self/mem"


class Direction(Enum):
    """Which way bytes or tags go."""

    FROM_GUEST = "from the guest"
    TO_GUEST = "to the guest"


@dataclass(frozen=True)
class Fault:
    """A signal that ended a call: si_code and si_addr, and the CPU at that moment.

    `address` is 0 for SEGV_MTEAERR. `pc` is relative to the routines' start where it is in
    them, else absolute. `sp` and `pstate` (SPSR_EL1's layout) say what the host had to undo.
    """

    signal: int
    code: int
    address: int
    pc: int = 0
    sp: int = 0
    pstate: int = 0

    @property
    def name(self) -> str:
        """Return the kernel's name for the code."""
        return _CODES.get((self.signal, self.code), f"signal {self.signal} code {self.code}")

    @property
    def is_tag_check(self) -> bool:
        """Return whether a failed tag check was the cause."""
        return self.signal == SIGSEGV and self.code in (SEGV_MTEAERR, SEGV_MTESERR)

    def __str__(self) -> str:
        return f"{self.name} at {self.address:#x}"


@dataclass(frozen=True)
class CallResult:
    """What a call returned: x0, or the fault that ended it. Both are values."""

    value: int
    fault: Fault | None = None


@dataclass
class Counts:
    """System calls that a host made for its caller, and ioctls; a measurement resets it."""

    system_calls: int = field(default=0)
    ioctls: int = field(default=0)


class Host(Protocol):
    """The process that a VMM runs in, as a strategy sees it. For one thread at a time."""

    @property
    def memory(self) -> GuestMemory:
        """Return the guest RAM that this host maps."""
        ...

    @property
    def counts(self) -> Counts:
        """Return what was asked of the kernel so far."""
        ...

    def lacks(self, need: Need) -> str | None:
        """Return why this host lacks `need`, in words; None if it has it."""
        ...

    def address(self, view: View, gpa: Gpa, length_bytes: int) -> int:
        """Return where [gpa, gpa + length) is in `view`.

        Raises AddressError if that is not in one region, HostError if there is no such view.
        """
        ...

    def borrow(self, array: NDArray[np.uint8]) -> AbstractContextManager[int]:
        """Yield an address of a contiguous array that routines can use, within a `with` block.

        What the routines stored there is in the array when the block is left. At most
        `largest_bytes` in one call, all borrowed arrays together.
        """
        ...

    @property
    def largest_bytes(self) -> int:
        """Return how many bytes of arrays can be borrowed at a time; at least 64 KiB."""
        ...

    def call(
        self, routine: Routine, *arguments: int, flags: CallFlags = CallFlags.NONE
    ) -> CallResult:
        """Run a routine in the calling thread.

        A SIGSEGV or SIGBUS in it ends it and is the result, an asynchronous tag check fault
        too; SP, PSTATE.TCO, the signal mask and the prctl are then what they were before. Raises
        HostError if the host cannot run it at all.
        """
        ...

    def get_tagged_addr_ctrl(self) -> int:
        """Return the calling thread's PR_GET_TAGGED_ADDR_CTRL. Raises HostError."""
        ...

    def set_tagged_addr_ctrl(self, value: int) -> None:
        """Set the calling thread's PR_SET_TAGGED_ADDR_CTRL.

        PR_MTE_TCF_SYNC with PR_MTE_TCF_ASYNC leaves the choice to the CPU's mte_tcf_preferred,
        where that is asymmetric mode. Raises HostError.
        """
        ...

    def copy_tags(self, gpa: Gpa, tags: NDArray[np.uint8], direction: Direction) -> None:
        """Do KVM_ARM_MTE_COPY_TAGS: one tag a byte, whole pages. Raises HostError."""
        ...

    def kernel_copy(
        self, copy_call: CopyCall, address: int, array: NDArray[np.uint8], direction: Direction
    ) -> int:
        """Copy by the kernel between host address `address` and `array`; return the errno.

        0 if all of it was copied.
        """
        ...

    def write_syscall(self, address: int, length_bytes: int) -> int:
        """Do write(2) of a host range to a file; return the errno, 0 if all was written.

        `address` is passed on as it is, logical tag included.
        """
        ...

    def read_syscall(self, address: int, data: bytes) -> int:
        """Do read(2) of `data` from a file into a host range; return the errno or 0."""
        ...

    def close(self) -> None:
        """Release what the host holds; guest RAM stays. Safe to call twice."""
        ...


def tagged_addr_ctrl(mode: registers.TagCheckMode) -> int:
    """Return the prctl value that asks for `mode`, on a CPU that prefers asymmetric checks.

    >>> from tagalong.mte.registers import TagCheckMode
    >>> hex(tagged_addr_ctrl(TagCheckMode.SYNC))
    '0x3'
    """
    bits = {
        registers.TagCheckMode.NONE: 0,
        registers.TagCheckMode.SYNC: PR_MTE_TCF_SYNC,
        registers.TagCheckMode.ASYNC: PR_MTE_TCF_ASYNC,
        registers.TagCheckMode.ASYMMETRIC: PR_MTE_TCF_SYNC | PR_MTE_TCF_ASYNC,
    }
    return PR_TAGGED_ADDR_ENABLE | bits[mode]
