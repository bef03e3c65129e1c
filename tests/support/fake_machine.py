"""A Machine on real guest memory whose guest is a script: for tests of what moves machines.

It is honest where it matters: the guest can write only while it runs, every write of the
guest marks its pages, a harvest gives each mark once, and memory that was never used stays
a hole. `guest` is a function in place of the instructions of a real one.
"""

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
from numpy.typing import NDArray

from tagalong.errors import MachineMismatchError, RunStateError, StateError
from tagalong.machine import (
    AccessChoice,
    MachineDescription,
    MachineState,
    PowerState,
    RegionDescription,
    RegisterId,
    RunState,
    VcpuState,
)
from tagalong.memory import Gpa, GuestMemory, PageBitmap, Region

RAM = Gpa(0x4000_0000)
X0 = RegisterId(0x6030_0000_0010_0000)
GCR = RegisterId(0x6030_0000_0013_C086)


def describe(
    *sizes: int, vcpus: int = 1, mte_version: int = 3, page_size_bytes: int = 4096
) -> MachineDescription:
    """Return a machine with regions of these sizes, 1 GiB from start to start."""
    regions = tuple(
        RegionDescription(Gpa(RAM + number * 0x4000_0000), size)
        for number, size in enumerate(sizes or (0x40_0000,))
    )
    return MachineDescription(page_size_bytes, vcpus, mte_version, regions)


class FakeVcpu:
    """A vCPU with two registers."""

    def __init__(self, machine: "FakeMachine", index: int) -> None:
        self.index = index
        self._machine = machine
        self._registers = {X0: 0, GCR: 0}
        self._power = PowerState.ON if index == 0 else PowerState.OFF

    def get_register(self, register: RegisterId) -> int:
        if register not in self._registers:
            raise StateError(f"vCPU {self.index} has no register {register:#x}")
        return self._registers[register]

    def set_register(self, register: RegisterId, value: int) -> None:
        self.get_register(register)
        self._registers[register] = value

    def save(self) -> VcpuState:
        self._machine.require_paused()
        return self.peek()

    def peek(self) -> VcpuState:
        return VcpuState(dict(self._registers), self._power)

    def add_register(self, register: RegisterId, value: int) -> None:
        """Make this a vCPU that has a register more than others."""
        self._registers[register] = value

    def objection(self, state: VcpuState) -> str:
        unknown = state.registers.keys() - self._registers.keys()
        names = ", ".join(f"{each:#x}" for each in sorted(unknown))
        return f"vCPU {self.index} has no register {names}" if unknown else ""

    def load(self, state: VcpuState) -> None:
        self._machine.require_paused()
        if objection := self.objection(state):
            raise StateError(objection)
        self._registers = dict(state.registers)
        self._power = state.power


class FakeMachine:
    """Implements Machine.

    `guest`: called with the machine before each harvest while it runs: what the guest did
    since the harvest before. `calls` has every call that changes or reads the machine.
    """

    def __init__(
        self,
        description: MachineDescription | None = None,
        guest: Callable[["FakeMachine"], None] | None = None,
    ) -> None:
        self.description = description or describe()
        self.memory = GuestMemory(
            [
                Region.create(
                    region.gpa,
                    region.size_bytes,
                    page_size_bytes=self.description.page_size_bytes,
                )
                for region in self.description.regions
            ]
        )
        self.vcpus: Sequence[FakeVcpu] = tuple(
            FakeVcpu(self, index) for index in range(self.description.vcpu_count)
        )
        self.devices: dict[str, bytes] = {"console": b""}
        self.calls: list[str] = []
        self.was_ever_resumed = False
        self.is_closed = False
        self.is_active = False
        self.throttle_percent = 0
        self._guest = guest
        self._lock = threading.RLock()
        self._state = RunState.PAUSED
        self._failure: Exception | None = None
        self._log: list[PageBitmap] | None = None

    # --- the guest's side ---

    def guest_write(self, gpa: int, data: bytes, tags: bytes | None = None) -> None:
        """Write data, and tags if given, as the guest; raises AssertionError if it is paused."""
        with self._lock:
            assert self._state is RunState.RUNNING, "a paused guest has written"
            self._mark(gpa, max(len(data), 32 * len(tags or b""), 1))
            if data:
                self.memory.write(Gpa(gpa), data)
            if tags is not None:
                self.memory.write_tags(Gpa(gpa), np.frombuffer(tags, np.uint8))

    def end(self, state: RunState, failure: Exception | None = None) -> None:
        """Power off, or fail."""
        with self._lock:
            self._state, self._failure = state, failure

    def _mark(self, gpa: int, size_bytes: int) -> None:
        if self._log is None:
            return
        region, offset = self.memory.locate(Gpa(gpa), size_bytes)
        page = region.page_size_bytes
        first, last = offset // page, (offset + size_bytes - 1) // page
        self._log[self.memory.regions.index(region)].set_range(first, last - first + 1)

    # --- Machine ---

    @property
    def run_state(self) -> RunState:
        return self._state

    @property
    def failure(self) -> Exception | None:
        return self._failure

    def resume(self) -> None:
        self.calls.append("resume")
        with self._lock:
            if self.is_closed or self._state in (RunState.SHUTDOWN, RunState.FAILED):
                raise RunStateError("the machine has ended")
            self._state = RunState.RUNNING
            self.was_ever_resumed = True

    def pause(self) -> None:
        self.calls.append("pause")
        with self._lock:
            if self._state is RunState.RUNNING:
                self._state = RunState.PAUSED

    def reset(self) -> None:
        self.calls.append("reset")
        self.require_paused()
        self._state = RunState.PAUSED

    def activate(self) -> None:
        self.is_active = True

    def inactivate(self) -> None:
        self.calls.append("inactivate")
        self.require_paused()
        self.is_active = False

    def wait(self, timeout_s: float | None = None) -> RunState:
        del timeout_s
        return self._state

    def vcpu_threads(self) -> tuple[int | None, ...]:
        return (None,) * self.description.vcpu_count

    def throttle(self, percent: int) -> None:
        if percent != self.throttle_percent:
            self.calls.append(f"throttle {percent}")
        self.throttle_percent = percent

    def hold_if_paused(self) -> AbstractContextManager[bool]:
        return nullcontext(self._state is not RunState.RUNNING)

    def close(self) -> None:
        self.calls.append("close")
        self.pause()
        self.is_closed = True
        self.memory.close()

    def read_tags(self, gpa: int, length_bytes: int) -> NDArray[np.uint8]:
        return self.memory.read_tags(gpa, length_bytes)

    def write_tags(self, gpa: int, packed: NDArray[np.uint8]) -> None:
        self.memory.write_tags(gpa, packed)

    def read_page_tags(
        self, region: int, pages: NDArray[np.int64], out: NDArray[np.uint8] | None = None
    ) -> NDArray[np.uint8]:
        return self.memory.region_of_pages(region, pages).read_page_tags(pages, out)

    def write_page_tags(
        self, region: int, pages: NDArray[np.int64], packed: NDArray[np.uint8]
    ) -> None:
        self.memory.region_of_pages(region, pages).write_page_tags(pages, packed)

    def use_access(self, name: str) -> AccessChoice:
        return AccessChoice(name, "asked for")

    def populated_pages(self) -> list[PageBitmap]:
        return [region.populated_pages() for region in self.memory.regions]

    def start_dirty_log(self) -> None:
        self.calls.append("start_dirty_log")
        self._log = [PageBitmap(region.page_count) for region in self.memory.regions]

    def harvest_dirty_log(self) -> list[PageBitmap]:
        self.calls.append("harvest_dirty_log")
        if self._guest is not None and self._state is RunState.RUNNING:
            self._guest(self)
        with self._lock:
            if self._log is None:
                raise RunStateError("the dirty log was not started")
            harvest = [bitmap.copy() for bitmap in self._log]
            for bitmap in self._log:
                bitmap.clear()
        return harvest

    def stop_dirty_log(self) -> None:
        self.calls.append("stop_dirty_log")
        self._log = None

    @property
    def is_logging(self) -> bool:
        return self._log is not None

    def require_paused(self) -> None:
        if self._state is RunState.RUNNING:
            raise RunStateError("the machine runs")

    def save_state(self) -> MachineState:
        self.calls.append("save_state")
        return MachineState(tuple(vcpu.save() for vcpu in self.vcpus), dict(self.devices))

    def peek_state(self) -> MachineState:
        self.calls.append("peek_state")
        return MachineState(tuple(vcpu.peek() for vcpu in self.vcpus), dict(self.devices))

    def check_state(self, state: MachineState) -> None:
        self.calls.append("check_state")
        self._refuse_foreign(state)

    def load_state(self, state: MachineState) -> None:
        self.calls.append("load_state")
        self._refuse_foreign(state)
        for vcpu, saved in zip(self.vcpus, state.vcpus, strict=True):
            vcpu.load(saved)
        self.devices = dict(state.devices)

    def _refuse_foreign(self, state: MachineState) -> None:
        self.require_paused()
        unknown = state.devices.keys() - self.devices.keys()
        objections = [f"no device is called {', '.join(sorted(unknown))}"] if unknown else []
        objections += [
            vcpu.objection(saved) for vcpu, saved in zip(self.vcpus, state.vcpus, strict=True)
        ]
        if said := "; ".join(filter(None, objections)):
            raise StateError(said)


def contents(machine: FakeMachine) -> list[tuple[bytes, bytes]]:
    """Return data and tags of each region, touching no hole."""
    return [
        (
            region.read_data(0, region.size_bytes).tobytes(),
            region.read_packed_tags(0, region.size_bytes).tobytes(),
        )
        for region in machine.memory.regions
    ]


def refuse(description: MachineDescription) -> FakeMachine:
    """Build nothing."""
    raise MachineMismatchError(f"no room for {description.ram_bytes:#x} bytes of RAM")
