"""The one seam: what a machine is, for all that is built on one.

`soft` (the embedded interpreter) and `kvm` (a real /dev/kvm) implement these Protocols;
everything above sees nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    import numpy as np
    from numpy.typing import NDArray

    from tagalong.machine.state import (
        AccessChoice,
        MachineDescription,
        MachineState,
        RegisterId,
        RunState,
        VcpuState,
    )
    from tagalong.memory import GuestMemory, PageBitmap


class Vcpu(Protocol):
    """One virtual CPU. Its state can be read and written only while the machine is paused."""

    @property
    def index(self) -> int:
        """Return the vCPU's number, from 0, by which `machine.affinity` names it to the guest."""
        ...

    def get_register(self, register: RegisterId) -> int:
        """Return one register's value. Raises StateError if the vCPU has no such register."""
        ...

    def set_register(self, register: RegisterId, value: int) -> None:
        """Write one register. Raises StateError; the register is unchanged then."""
        ...

    def save(self) -> VcpuState:
        """Return the whole state. Raises RunStateError while the machine runs."""
        ...

    def load(self, state: VcpuState) -> None:
        """Take over a whole state.

        Raises StateError naming every register that this vCPU does not have or cannot
        take; the vCPU is unchanged then. Raises RunStateError while the machine runs.
        """
        ...


class Machine(Protocol):
    """One VM: RAM with tags, vCPUs, devices.

    A new machine is PAUSED with vCPU 0 on and all others off. All methods may be called
    from any thread. Guest faults are the guest's business and never surface here.
    """

    @property
    def description(self) -> MachineDescription:
        """Return what a destination must provide to hold this machine."""
        ...

    @property
    def memory(self) -> GuestMemory:
        """Return guest RAM. Its data planes may be read and written at any time."""
        ...

    @property
    def vcpus(self) -> Sequence[Vcpu]:
        """Return the vCPUs in order of their index."""
        ...

    @property
    def run_state(self) -> RunState:
        """Return what the machine is doing now."""
        ...

    @property
    def failure(self) -> Exception | None:
        """Return why the machine is FAILED, else None."""
        ...

    def resume(self) -> None:
        """Let all vCPUs and devices work, which `activate` comes before.

        Raises RunStateError after RESET, SHUTDOWN, FAILED or close(), HostError as `activate`;
        nothing has changed then.
        """
        ...

    def pause(self) -> None:
        """Stop all vCPUs between instructions, with no exit left unfinished, and all devices.

        Returns when they are stopped and no device has a request under way. A machine that is not
        running stays as it is. A guest that powers off just then is SHUTDOWN afterwards, not
        PAUSED; one that asks for a reset is RESET.
        """
        ...

    def activate(self) -> None:
        """Take what only the one process may hold that may run this VM: the locks of its disks.

        `resume` does it, too. Does nothing if it is taken. Raises HostError that names the device;
        nothing is taken then.
        """
        ...

    def inactivate(self) -> None:
        """Bring all that the guest stored to its disks, then give up what `activate` took.

        For a VM that another process is to run. Raises HostError that names the device, and
        RunStateError while running; nothing is given up then.
        """
        ...

    def reset(self) -> None:
        """Make vCPUs, devices and interrupt controller what they are at power-on.

        RAM stays as it is, tags included, and time goes on: what starts the guest anew is loaded by
        the caller. The machine is PAUSED then, also if the guest had asked for it (RESET). Raises
        RunStateError while it runs, after SHUTDOWN, FAILED or close(); nothing has changed then.
        """
        ...

    def wait(self, timeout_s: float | None = None) -> RunState:
        """Return what the machine does once it is not RUNNING, or after `timeout_s`."""
        ...

    def vcpu_threads(self) -> tuple[int | None, ...]:
        """Return, for each vCPU, the host's id of the thread that runs it (gettid).

        None before the machine is first resumed; vCPUs may share a thread. Raises RunStateError
        after close().
        """
        ...

    def throttle(self, percent: int) -> None:
        """Stop all vCPUs for `percent` of the time that the machine runs; 0 ends that.

        0 to MAX_THROTTLE_PERCENT. They stop between instructions, in slices of milliseconds.
        Raises UsageError for other values, RunStateError after close().
        """
        ...

    def hold_if_paused(self) -> AbstractContextManager[bool]:
        """Keep the vCPUs and devices of a machine that is not RUNNING stopped for a block.

        Yields whether they are held; a machine that is RUNNING runs on. One that is resumed within
        the block counts as RUNNING at once, and its vCPUs and devices work when the block ends.
        """
        ...

    def close(self) -> None:
        """Stop and release memory and host resources. Safe to call twice."""
        ...

    def read_tags(self, gpa: int, length_bytes: int) -> NDArray[np.uint8]:
        """Return the packed allocation tags of a gpa range, as a copy.

        `gpa`, `length_bytes`: multiples of 32; the range is in one region. Shape
        (length_bytes / 32,), low nibble first. Raises AddressError.
        """
        ...

    def write_tags(self, gpa: int, packed: NDArray[np.uint8]) -> None:
        """Set the allocation tags from `gpa` on; `packed` as read_tags returns it.

        Where the range begins or ends inside a page, the vCPUs are held for it. Raises
        AddressError; no tag has changed then. Recorded in the dirty log.
        """
        ...

    def read_page_tags(
        self, region: int, pages: NDArray[np.int64], out: NDArray[np.uint8] | None = None
    ) -> NDArray[np.uint8]:
        """Return the packed allocation tags of scattered pages of region number `region`.

        `pages`: numbers in the region, ascending. Returns a copy of shape
        (pages, page size / 32); in `out`, C-contiguous and of that shape, if it is given. Costs
        far less than read_tags for each. Raises AddressError, UsageError for another `out`; what
        `out` holds after an error is open.
        """
        ...

    def write_page_tags(
        self, region: int, pages: NDArray[np.int64], packed: NDArray[np.uint8]
    ) -> None:
        """Set the allocation tags of pages as read_page_tags returns them.

        Raises AddressError, UsageError for `packed` of another shape; no tag has changed then.
        Recorded in the dirty log.
        """
        ...

    def use_access(self, name: str) -> AccessChoice:
        """Touch guest RAM by the access strategy `name` from now on; "auto" is the best.

        That is what read_tags, write_tags and their kin do, and all copies of data by the
        methods of `memory` and its regions. Raises UsageError for an unknown name,
        HostError saying what the host lacks for it; then nothing has changed.
        """
        ...

    def populated_pages(self) -> list[PageBitmap]:
        """Return, for each region, the pages that may hold data or tags other than zero.

        This touches no page: a page never used by guest or host stays a hole.
        """
        ...

    def start_dirty_log(self) -> None:
        """Record from now on which pages change, in data or in tags.

        By the guest's stores, or by the host's (`tagalong.memory.stores`).
        """
        ...

    def harvest_dirty_log(self) -> list[PageBitmap]:
        """Return, for each region, the pages changed since the last harvest; start anew.

        No change is lost: what is not in this harvest is in a later one. Raises
        RunStateError if the log was not started.
        """
        ...

    def stop_dirty_log(self) -> None:
        """Stop recording and forget what was recorded."""
        ...

    def save_state(self) -> MachineState:
        """Return the state of all vCPUs and devices. Raises RunStateError while running."""
        ...

    def peek_state(self) -> MachineState:
        """Return the state as of now; allowed while running.

        The vCPUs are held between two instructions for that moment.
        """
        ...

    def check_state(self, state: MachineState) -> None:
        """Raise StateError naming everything that load_state would refuse.

        A migration asks this before the guest stops: the source sends its state as of then, the
        destination tries it, and what it cannot take is refused by name while the VM still runs.
        Nothing changes. Raises RunStateError while running.
        """
        ...

    def load_state(self, state: MachineState) -> None:
        """Take over a whole machine state; the machine stays PAUSED.

        Raises StateError naming everything that this machine cannot take. Raises
        RunStateError while running. After an error the machine must not be resumed.
        """
        ...
