"""The interrupt status of a virtio device: why it interrupts; its line is high while it does.

A guest reads and acknowledges it at each interrupt. A machine whose vCPUs exit for that connects
it: native code then answers both accesses, and drives the line, without entering Python
(native/kvm/interrupts.c).
"""

import os
import weakref

from tagalong._native import library
from tagalong.devices.irq import IrqLine
from tagalong.errors import HostError, NativeLibraryError


class InterruptStatus:
    """Reasons to interrupt, one bit each; from any thread, changed by one that has a lock."""

    def __init__(self) -> None:
        native = library().ta_interrupts_new()
        if native is None:
            raise NativeLibraryError("no memory for the interrupt status of a device")
        self.native: int = native
        """The address of the `struct ta_interrupts`, which lives as long as this object."""
        weakref.finalize(self, library().ta_interrupts_free, native)
        self._line: IrqLine | None = None

    @property
    def reasons(self) -> int:
        """Return the reasons as they are now."""
        return int(library().ta_interrupts_get(self.native))

    def change(self, *, clear: int = 0, add: int = 0) -> None:
        """Clear reasons, then add others; the line follows. Raises HostError if it cannot."""
        _check(library().ta_interrupts_change(self.native, clear, add))
        if self._line is not None:
            self._line.set(bool(self.reasons))

    def follow(self, line: IrqLine | None) -> None:
        """Let a line of the machine follow the reasons."""
        self._line = line

    def connect(self, vm_descriptor: int, irq: int, gpa: int) -> None:
        """Let a line of KVM's follow the reasons, and no other; `irq` as KVM_IRQ_LINE takes it.

        `gpa`: where the device's registers begin. Raises HostError.
        """
        self._line = None
        _check(library().ta_interrupts_connect(self.native, vm_descriptor, irq, gpa))

    def disconnect(self) -> None:
        """Undo `connect`, before the VM is closed."""
        library().ta_interrupts_connect(self.native, -1, 0, 0)


def _check(result: int) -> None:
    if result < 0:
        raise HostError(f"KVM_IRQ_LINE failed: {os.strerror(-result)}")
