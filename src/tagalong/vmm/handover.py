"""Decides who may let the guest run while a migration hands it over, or while it is saved.

Two parties start and stop the machine: the operator, with `stop` and `cont`, in the event
loop's thread, and a migration or a snapshot, which freezes the guest for its last pages, in
its own. A `cont` that slips in between would let the guest run on both sides, or change what
is being saved. So both go through one lock: once frozen, only the end of the migration or
the snapshot lets the machine go, and it goes on only if it ran before and nobody said `stop`
in between.
"""

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from tagalong.errors import RunStateError
from tagalong.machine import (
    AccessChoice,
    Machine,
    MachineDescription,
    MachineState,
    RunState,
    Vcpu,
)
from tagalong.memory import Gpa, GuestMemory, PageBitmap


class Purpose(Enum):
    """What the guest is frozen for; the value is what is said to who wants it to run."""

    MIGRATION = "Migration is not finalized yet"
    SAVING = "the VM is being saved: it goes on by itself if it ran"


class HandoverGate:
    """Starts and stops a machine on behalf of the operator, a migration and a snapshot.

    `on_freeze` is called when the guest stands, `on_thaw` when that was undone; both in the
    thread of the migration or the snapshot.
    """

    def __init__(
        self,
        machine: Machine,
        *,
        on_freeze: Callable[[Purpose], None],
        on_thaw: Callable[[], None],
    ) -> None:
        self._machine = machine
        self._on_freeze = on_freeze
        self._on_thaw = on_thaw
        self._lock = threading.Lock()
        self._frozen: Purpose | None = None
        self._resume_on_thaw = False

    def resume(self) -> None:
        """Let the guest run, for the operator. Raises RunStateError while frozen."""
        with self._lock:
            if self._frozen is not None:
                raise RunStateError(self._frozen.value)
            self._machine.resume()

    def pause(self) -> RunState:
        """Stop the guest, for the operator; return what the machine is then."""
        with self._lock:
            self._resume_on_thaw = False
            self._machine.pause()
            return self._machine.run_state

    def freeze(self, purpose: Purpose = Purpose.MIGRATION) -> None:
        """Stop the guest.

        Raises RunStateError if it powered off or failed meanwhile: then there is nothing
        that anybody could run on.
        """
        with self._lock:
            self._resume_on_thaw = self._machine.run_state is RunState.RUNNING
            self._machine.pause()
            state = self._machine.run_state
            if state is not RunState.PAUSED:
                raise RunStateError(f"the guest reached {state.value} before it was stopped")
            self._frozen = purpose
        self._on_freeze(purpose)

    def thaw(self) -> None:
        """Undo freeze(); does nothing if that was not called."""
        with self._lock:
            if self._frozen is None:
                return
            if self._resume_on_thaw:
                self._machine.resume()
            self._frozen = None
        self._on_thaw()

    def release(self) -> None:
        """Give the frozen machine back to the operator, standing."""
        with self._lock:
            self._frozen = None


class GatedMachine:
    """The machine as a migration or a snapshot sees it: all passes, stop and go by the gate."""

    def __init__(
        self, machine: Machine, gate: HandoverGate, purpose: Purpose = Purpose.MIGRATION
    ) -> None:
        self._machine = machine
        self._gate = gate
        self._purpose = purpose

    @property
    def description(self) -> MachineDescription:
        """As Machine.description."""
        return self._machine.description

    @property
    def memory(self) -> GuestMemory:
        """As Machine.memory."""
        return self._machine.memory

    @property
    def vcpus(self) -> Sequence[Vcpu]:
        """As Machine.vcpus."""
        return self._machine.vcpus

    @property
    def run_state(self) -> RunState:
        """As Machine.run_state."""
        return self._machine.run_state

    @property
    def failure(self) -> Exception | None:
        """As Machine.failure."""
        return self._machine.failure

    def resume(self) -> None:
        """Give the machine back: it goes on if it ran."""
        self._gate.thaw()

    def pause(self) -> None:
        """Freeze the machine. Raises RunStateError if it ended."""
        self._gate.freeze(self._purpose)

    def wait(self, timeout_s: float | None = None) -> RunState:
        """As Machine.wait."""
        return self._machine.wait(timeout_s)

    def throttle(self, percent: int) -> None:
        """As Machine.throttle."""
        self._machine.throttle(percent)

    def standing(self) -> AbstractContextManager[bool]:
        """As Machine.standing."""
        return self._machine.standing()

    def close(self) -> None:
        """As Machine.close."""
        self._machine.close()

    def read_tags(self, gpa: Gpa, length_bytes: int) -> NDArray[np.uint8]:
        """As Machine.read_tags."""
        return self._machine.read_tags(gpa, length_bytes)

    def write_tags(self, gpa: Gpa, packed: NDArray[np.uint8]) -> None:
        """As Machine.write_tags."""
        self._machine.write_tags(gpa, packed)

    def read_page_tags(
        self, region: int, pages: NDArray[np.int64], out: NDArray[np.uint8] | None = None
    ) -> NDArray[np.uint8]:
        """As Machine.read_page_tags."""
        return self._machine.read_page_tags(region, pages, out)

    def write_page_tags(
        self, region: int, pages: NDArray[np.int64], packed: NDArray[np.uint8]
    ) -> None:
        """As Machine.write_page_tags."""
        self._machine.write_page_tags(region, pages, packed)

    def use_access(self, name: str) -> AccessChoice:
        """As Machine.use_access."""
        return self._machine.use_access(name)

    def populated_pages(self) -> list[PageBitmap]:
        """As Machine.populated_pages."""
        return self._machine.populated_pages()

    def start_dirty_log(self) -> None:
        """As Machine.start_dirty_log."""
        self._machine.start_dirty_log()

    def harvest_dirty_log(self) -> list[PageBitmap]:
        """As Machine.harvest_dirty_log."""
        return self._machine.harvest_dirty_log()

    def stop_dirty_log(self) -> None:
        """As Machine.stop_dirty_log."""
        self._machine.stop_dirty_log()

    def save_state(self) -> MachineState:
        """As Machine.save_state."""
        return self._machine.save_state()

    def peek_state(self) -> MachineState:
        """As Machine.peek_state."""
        return self._machine.peek_state()

    def check_state(self, state: MachineState) -> None:
        """As Machine.check_state."""
        self._machine.check_state(state)

    def load_state(self, state: MachineState) -> None:
        """As Machine.load_state."""
        self._machine.load_state(state)
