"""Strategy `kernel`: the kernel copies the data, and never checks tags when it does.

process_vm_readv and process_vm_writev where the kernel has them, else /proc/self/mem. Tags
by LDG and STG, which are not checked either.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, ClassVar

from tagalong.access.host import CopyCall, Direction, Fault, Host, Need, View
from tagalong.access.strategy import Hazard, Mapped, pieces, storing
from tagalong.errors import HostError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tagalong.memory import Gpa


class Kernel(Mapped):
    """See the module. `copy_call`: the call used; another one if the kernel lacks it."""

    name: ClassVar[str] = "kernel"
    summary: ClassVar[str] = "the kernel copies: process_vm_readv or /proc/self/mem; LDG and STG"
    needs: ClassVar = frozenset({Need.ARM64, Need.MTE, Need.PROT_MTE, Need.KERNEL_COPY})
    hazards: ClassVar = frozenset({Hazard.NOT_FOR_SYSCALLS, Hazard.POPULATES_MEMORY})

    def __init__(self, host: Host, copy_call: CopyCall = CopyCall.PROCESS_VM) -> None:
        super().__init__(host)
        self.copy_call = copy_call

    def read(self, gpa: Gpa, target: NDArray[np.uint8]) -> Fault | None:
        """Read guest memory by the kernel."""
        self._copy(gpa, target, Direction.FROM_GUEST)
        return None

    def write(self, gpa: Gpa, source: NDArray[np.uint8]) -> Fault | None:
        """Write guest memory by the kernel."""
        with storing(self.host, gpa, source.size):
            self._copy(gpa, source, Direction.TO_GUEST)
        return None

    def _copy(self, gpa: Gpa, array: NDArray[np.uint8], direction: Direction) -> None:
        address = self.host.address(View.TAGGED, gpa, array.size)
        for at, part in pieces(array, self.host.largest_bytes):
            code = self.host.kernel_copy(self.copy_call, address + at, part, direction)
            if code == errno.ENOSYS and self.copy_call is CopyCall.PROCESS_VM:
                self.copy_call = CopyCall.PROC_MEM
                code = self.host.kernel_copy(self.copy_call, address + at, part, direction)
            if code:
                raise HostError(
                    f"{self.copy_call.value}: copying {part.size:#x} bytes {direction.value} at "
                    f"gpa {gpa + at:#x} failed: {os.strerror(code)}"
                )
