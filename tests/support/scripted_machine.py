"""A Machine that only starts and stops, and ends when a test says so."""

import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager

import numpy as np
from numpy.typing import NDArray

from tagalong.errors import RunStateError
from tagalong.machine import (
    AccessChoice,
    MachineDescription,
    MachineState,
    RegionDescription,
    RunState,
    Vcpu,
)
from tagalong.memory import Gpa, GuestMemory, PageBitmap

DESCRIPTION = MachineDescription(
    page_size_bytes=4096,
    vcpu_count=2,
    mte_version=3,
    regions=(RegionDescription(Gpa(0x4000_0000), 0x100000),),
)


class ScriptedMachine:
    """Implements Machine without memory or vCPUs; `calls` records resume, pause and reset."""

    def __init__(self, description: MachineDescription = DESCRIPTION) -> None:
        self.calls: list[str] = []
        self.closed = False
        self.is_active = False
        self.obstacle: Exception | None = None  # what activate() raises
        self.failure: Exception | None = None
        self._description = description
        self._state = RunState.PAUSED
        self._changed = threading.Condition()

    def power_off(self) -> None:
        self._enter(RunState.SHUTDOWN)

    def ask_for_reset(self) -> None:
        self._enter(RunState.RESET)

    def fail(self, error: Exception) -> None:
        self.failure = error
        self._enter(RunState.FAILED)

    @property
    def description(self) -> MachineDescription:
        return self._description

    @property
    def run_state(self) -> RunState:
        return self._state

    def resume(self) -> None:
        self.calls.append("resume")
        if self._state in {RunState.RESET, RunState.SHUTDOWN, RunState.FAILED}:
            raise RunStateError(f"the machine is {self._state.value}")
        self._enter(RunState.RUNNING)

    def pause(self) -> None:
        self.calls.append("pause")
        if self._state is RunState.RUNNING:
            self._enter(RunState.PAUSED)

    def reset(self) -> None:
        self.calls.append("reset")
        if self._state not in {RunState.PAUSED, RunState.RESET}:
            raise RunStateError(f"the machine is {self._state.value}")
        self._enter(RunState.PAUSED)

    def activate(self) -> None:
        if self.obstacle is not None:
            raise self.obstacle
        self.is_active = True

    def inactivate(self) -> None:
        self.is_active = False

    def wait(self, timeout_s: float | None = None) -> RunState:
        with self._changed:
            self._changed.wait_for(lambda: self._state is not RunState.RUNNING, timeout_s)
        return self._state

    def vcpu_threads(self) -> tuple[int | None, ...]:
        return (4711, None)

    def throttle(self, percent: int) -> None:
        raise NotImplementedError

    def hold_if_paused(self) -> AbstractContextManager[bool]:
        raise NotImplementedError

    def close(self) -> None:
        self.closed = True
        if self._state is RunState.RUNNING:
            self._enter(RunState.PAUSED)

    def _enter(self, state: RunState) -> None:
        with self._changed:
            self._state = state
            self._changed.notify_all()

    @property
    def memory(self) -> GuestMemory:
        raise NotImplementedError

    @property
    def vcpus(self) -> Sequence[Vcpu]:
        return ()

    def read_tags(self, gpa: int, length_bytes: int) -> NDArray[np.uint8]:
        raise NotImplementedError

    def read_page_tags(
        self, region: int, pages: NDArray[np.int64], out: NDArray[np.uint8] | None = None
    ) -> NDArray[np.uint8]:
        raise NotImplementedError

    def write_page_tags(
        self, region: int, pages: NDArray[np.int64], packed: NDArray[np.uint8]
    ) -> None:
        raise NotImplementedError

    def write_tags(self, gpa: int, packed: NDArray[np.uint8]) -> None:
        raise NotImplementedError

    def use_access(self, name: str) -> AccessChoice:
        return AccessChoice(name, "asked for")

    def populated_pages(self) -> list[PageBitmap]:
        raise NotImplementedError

    def start_dirty_log(self) -> None:
        raise NotImplementedError

    def harvest_dirty_log(self) -> list[PageBitmap]:
        raise NotImplementedError

    def stop_dirty_log(self) -> None:
        raise NotImplementedError

    def save_state(self) -> MachineState:
        raise NotImplementedError

    def peek_state(self) -> MachineState:
        raise NotImplementedError

    def check_state(self, state: MachineState) -> None:
        raise NotImplementedError

    def load_state(self, state: MachineState) -> None:
        raise NotImplementedError
