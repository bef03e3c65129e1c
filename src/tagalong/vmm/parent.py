"""Ends this process when the one that started it ends."""

import ctypes
import os
import signal

from tagalong.errors import HostError

# include/uapi/linux/prctl.h
_PR_SET_PDEATHSIG = 1


def exit_with_parent(parent_pid: int) -> None:
    """Ask the kernel for SIGTERM when the parent, `parent_pid`, ends (prctl(2)).

    Raises HostError if the kernel refuses. If the parent has ended already, this process
    gets the signal at once.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise HostError(f"prctl(PR_SET_PDEATHSIG): {os.strerror(code)}")
    if os.getppid() != parent_pid:
        os.kill(os.getpid(), signal.SIGTERM)
