"""What the kernel stores per thread of a VMM, and the signals that exceptions become.

Sources: Linux Documentation/arch/arm64/memory-tagging-extension.rst; arch/arm64/mm/fault.c;
docs/design/access.md says what was run on real kernels.
"""

import errno
import os
import threading
from typing import Final

from tagalong.access.host import (
    PR_MTE_TCF_ASYNC,
    PR_MTE_TCF_MASK,
    PR_MTE_TCF_SYNC,
    PR_TAGGED_ADDR_ENABLE,
    SEGV_ACCERR,
    SEGV_MAPERR,
    SEGV_MTEAERR,
    SEGV_MTESERR,
    SIGBUS,
    SIGSEGV,
    Fault,
)
from tagalong.errors import HostError
from tagalong.mte.pointers import address_of
from tagalong.mte.registers import TagCheckMode
from tagalong.soft.host.process import CODE_BYTES, CODE_VA, ExceptionClass, Process, Trap

SIGILL: Final = 4
ILL_ILLOPC: Final = 1
BUS_ADRALN: Final = 1

_PR_MTE_TAG_MASK: Final = 0xFFFF << 3
_KNOWN_CTRL: Final = PR_TAGGED_ADDR_ENABLE | PR_MTE_TCF_MASK | _PR_MTE_TAG_MASK

_MODES: Final = {
    0: TagCheckMode.NONE,
    PR_MTE_TCF_SYNC: TagCheckMode.SYNC,
    PR_MTE_TCF_ASYNC: TagCheckMode.ASYNC,
    PR_MTE_TCF_MASK: TagCheckMode.ASYMMETRIC,  # the CPU's mte_tcf_preferred decides: asymm here
}

# DFSC: translation and access flag faults at any level, permission faults, and two others.
_TRANSLATION: Final = range(0x04, 0x08)
_TAG_CHECK: Final = 0x11
_ALIGNMENT: Final = 0x21


class ThreadState(threading.local):
    """PR_SET_TAGGED_ADDR_CTRL and PSTATE.TCO; every thread has its own and starts with 0."""

    ctrl: int = 0
    tco: bool = False

    @property
    def mode(self) -> TagCheckMode:
        """Return what the thread's checks do."""
        return _MODES[self.ctrl & PR_MTE_TCF_MASK]

    def set_ctrl(self, value: int) -> None:
        """Do the prctl. Raises HostError for bits that Linux refuses; unchanged then."""
        if value & ~_KNOWN_CTRL:
            raise HostError(
                f"prctl(PR_SET_TAGGED_ADDR_CTRL, {value:#x}) failed: {os.strerror(errno.EINVAL)}"
            )
        self.ctrl = value


def async_fault(process: Process, trap: Trap) -> Fault:
    """Return the signal for asynchronous checks that failed: it knows no address."""
    return _fault(SIGSEGV, SEGV_MTEAERR, 0, process, trap)


def fault_of(process: Process, trap: Trap) -> Fault:
    """Return the signal that an exception of user space becomes (arch/arm64/mm/fault.c)."""
    address = address_of(trap.far)  # without SA_EXPOSE_TAGBITS
    match trap.exception_class:
        case ExceptionClass.DATA_ABORT | ExceptionClass.INSTRUCTION_ABORT:
            return _fault(*_abort_signal(trap), address, process, trap)
        case ExceptionClass.PC_ALIGNMENT | ExceptionClass.SP_ALIGNMENT:
            return _fault(SIGBUS, BUS_ADRALN, trap.pc, process, trap)
    return _fault(SIGILL, ILL_ILLOPC, trap.pc, process, trap)


def _abort_signal(trap: Trap) -> tuple[int, int]:
    if trap.fault_status == _TAG_CHECK:
        return SIGSEGV, SEGV_MTESERR
    if trap.fault_status == _ALIGNMENT:
        return SIGBUS, BUS_ADRALN
    return SIGSEGV, SEGV_MAPERR if trap.fault_status in _TRANSLATION else SEGV_ACCERR


def _fault(signal: int, code: int, address: int, process: Process, trap: Trap) -> Fault:
    inside = CODE_VA <= trap.pc < CODE_VA + CODE_BYTES
    return Fault(
        signal,
        code,
        address,
        pc=trap.pc - CODE_VA if inside else trap.pc,
        sp=process.stack_pointer,
        pstate=process.saved_pstate,
    )
