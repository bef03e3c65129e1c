"""The embedded machine as a Machine: one thread runs the interpreter for all its vCPUs."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from tagalong._native import InterpreterExit
from tagalong.devices import (
    DeviceBus,
    DeviceModels,
    SharedInput,
    Sink,
    built_in_models,
    create_devices,
)
from tagalong.errors import (
    AddressError,
    StateError,
    UsageError,
)
from tagalong.machine import (
    DEFAULT_CONSOLE,
    AccessChoice,
    Clock,
    DeviceDescription,
    GicDescription,
    MachineDescription,
    MachineState,
    PowerState,
    RegionDescription,
    RunState,
)
from tagalong.machine.cpu_match import STRICT, CpuPolicy
from tagalong.machine.gic import gic_objections
from tagalong.machine.lifecycle import MachineLifecycle
from tagalong.memory import Gpa, GuestMemory, PageBitmap, RegionSource
from tagalong.mte import PACKED_RATIO
from tagalong.mte.version import MteVersion
from tagalong.soft.build import PAGE_BYTES, map_all, refuse_foreign
from tagalong.soft.clock import HostClock
from tagalong.soft.dirty_log import SoftDirtyLog
from tagalong.soft.exits import SoftExits
from tagalong.soft.gic import SoftGic
from tagalong.soft.host import SoftHost
from tagalong.soft.native import (
    COUNTER_HZ,
    NO_DEADLINE,
    InterruptLine,
    NativeMachine,
    StopReason,
)
from tagalong.soft.psci import Psci
from tagalong.soft.ram import create_memory
from tagalong.soft.runner import SoftRunner
from tagalong.soft.tag_access import SoftTagAccess
from tagalong.soft.time_source import SoftTime
from tagalong.soft.unsupported import unsupported
from tagalong.soft.vcpu import SoftVcpu

RAM_GPA: Final = Gpa(0x4000_0000)
_EVENT_WAIT_S: Final = 0.001


class SoftMachine(MachineLifecycle):
    """Implements the Machine Protocol; see there for what each method promises."""

    def __init__(
        self,
        description: MachineDescription,
        *,
        seed: int = 0,
        console: Callable[[bytes], None] | None = None,
        policy: CpuPolicy = STRICT,
        sources: Sequence[RegionSource] | None = None,
        models: DeviceModels | None = None,
    ) -> None:
        """Create a paused machine; `console` gets the guest's output, from the runner thread.

        `sources`: the content of each region, mapped copy-on-write. `models`: kinds of devices
        beside the built-in ones. Raises UsageError for a description that this machine cannot be,
        HostError if the host has no memory for it.
        """
        refuse_foreign(description)
        condition = threading.Condition()
        self._description = description
        self._wakeup = threading.Event()
        self._gic: SoftGic | None = None
        # A destination makes machines of what peers describe: one that cannot be leaves nothing.
        with ExitStack() as undo:
            self._native = NativeMachine(description.vcpu_count, seed)
            undo.callback(self._native.close)
            self._memory = create_memory(description, sources)
            undo.callback(self._memory.close)
            self._time = SoftTime(self._native)
            known = {**built_in_models(console, self._time), **(models or {})}
            devices = create_devices(description.devices, known)
            sink: Sink = SharedInput(self._set_irq)
            if description.gic is not None:
                count, wake = description.vcpu_count, self._wakeup.set
                self._gic = SoftGic(self._native, description.gic, count, wake)
                sink = self._gic.set_line
            self._bus = DeviceBus(devices, self._memory, sink)
            map_all(self._native, self._memory, self._bus)
            undo.pop_all()
        runner = SoftRunner(condition, self._native, self._handle_exit, self._fail, self._wakeup)
        super().__init__(condition, runner, self._bus)
        self._wait = runner.idle
        self._dirty_log = SoftDirtyLog(self._native, self._memory.regions)
        self._host: SoftHost | None = None
        self._tags = SoftTagAccess(self._memory, lambda: self.host)
        self._vcpus = tuple(
            SoftVcpu(i, self._native, self._while_paused, self._handle_exit, policy)
            for i in range(description.vcpu_count)
        )
        psci = Psci(self._vcpus, self._is_ram, self._end)
        self._exits = SoftExits(self._native, self._bus, self._vcpus, psci)

    @classmethod
    def create(
        cls,
        *,
        ram_bytes: int,
        vcpu_count: int = 1,
        seed: int = 0,
        console: Callable[[bytes], None] | None = None,
        devices: Sequence[DeviceDescription] = (DEFAULT_CONSOLE,),
        models: DeviceModels | None = None,
    ) -> Self:
        """Create a machine with one RAM region at RAM_GPA. Raises as the class does.

        `ram_bytes`: whole pages of 4096 bytes, one at least; UsageError for anything else.
        """
        description = cls.describe(ram_bytes=ram_bytes, vcpu_count=vcpu_count, devices=devices)
        return cls(description, seed=seed, console=console, models=models)

    @classmethod
    def describe(
        cls,
        *,
        ram_bytes: int,
        vcpu_count: int = 1,
        devices: Sequence[DeviceDescription] = (DEFAULT_CONSOLE,),
        gic: GicDescription | None = None,
    ) -> MachineDescription:
        """Return the description of a machine with one RAM region at RAM_GPA.

        Raises UsageError for `ram_bytes` that are not whole pages, and as MachineDescription.
        """
        if ram_bytes < PAGE_BYTES or ram_bytes % PAGE_BYTES:
            raise UsageError(
                f"ram_bytes is {ram_bytes}: give whole pages of {PAGE_BYTES} bytes, one at least"
            )
        return MachineDescription(
            page_size_bytes=PAGE_BYTES,
            vcpu_count=vcpu_count,
            mte_version=MteVersion.MTE3,
            regions=(RegionDescription(RAM_GPA, ram_bytes),),
            devices=tuple(devices),
            gic=gic,
        )

    @classmethod
    def from_description(
        cls,
        description: MachineDescription,
        *,
        seed: int = 0,
        console: Callable[[bytes], None] | None = None,
        policy: CpuPolicy = STRICT,
        sources: Sequence[RegionSource] | None = None,
        models: DeviceModels | None = None,
    ) -> Self:
        """Create the machine that a stream or a snapshot describes. Raises as the class does."""
        return cls(
            description, seed=seed, console=console, policy=policy, sources=sources, models=models
        )

    # --- what it is ---

    @property
    def description(self) -> MachineDescription:
        """Return the description it was created from."""
        return self._description

    @property
    def memory(self) -> GuestMemory:
        """Return guest RAM."""
        return self._memory

    @property
    def vcpus(self) -> Sequence[SoftVcpu]:
        """Return the vCPUs in order of their index."""
        return self._vcpus

    @property
    def host(self) -> SoftHost:
        """Return what access strategies need of a process beside this guest; made when asked for.

        Raises HostError if the host has no memory for it, RunStateError after close().
        """
        with self._held():
            if self._host is None:
                self._native.share_tags()
                self._host = SoftHost(self._memory)
            return self._host

    # --- tags and pages ---

    def read_tags(self, gpa: int, length_bytes: int) -> NDArray[np.uint8]:
        """Return packed allocation tags of a range, as a copy."""
        self._refuse_closed()
        return self._tags.read(gpa, length_bytes)

    def write_tags(self, gpa: int, packed: NDArray[np.uint8]) -> None:
        """Set the packed allocation tags from a gpa on."""
        self._refuse_closed()
        page = self.description.page_size_bytes
        with self._held_for_parts_of_pages(gpa, packed.size * PACKED_RATIO, page):
            self._tags.write(gpa, packed)

    def read_page_tags(
        self, region: int, pages: NDArray[np.int64], out: NDArray[np.uint8] | None = None
    ) -> NDArray[np.uint8]:
        """Return packed allocation tags of scattered pages, a row each, as a copy."""
        self._refuse_closed()
        return self._tags.read_pages(region, pages, out)

    def write_page_tags(
        self, region: int, pages: NDArray[np.int64], packed: NDArray[np.uint8]
    ) -> None:
        """Set allocation tags of scattered pages, a row each."""
        self._refuse_closed()
        self._tags.write_pages(region, pages, packed)

    def use_access(self, name: str) -> AccessChoice:
        """Touch guest RAM by the strategy `name` from now on."""
        self._refuse_closed()
        return self._tags.use_access(name)

    def populated_pages(self) -> list[PageBitmap]:
        """Return, for each region, the pages that may not be zero."""
        self._refuse_closed()
        return [region.populated_pages() for region in self._memory.regions]

    def start_dirty_log(self) -> None:
        """Record changed pages from now on."""
        with self._held():
            self._dirty_log.start()

    def harvest_dirty_log(self) -> list[PageBitmap]:
        """Return the pages changed since the last harvest, and start anew."""
        with self._held():
            return self._dirty_log.harvest()

    def stop_dirty_log(self) -> None:
        """Stop recording."""
        with self._held():
            self._dirty_log.stop()

    def use_clock(self, clock: Clock) -> None:
        """Let the guest's time follow `clock` from now on. Raises RunStateError."""
        with self._while_paused():
            self._clock = HostClock(self._native) if clock is Clock.HOST else None
            self._time.is_utc = clock is Clock.HOST

    # --- state ---

    def save_state(self) -> MachineState:
        """Return the state of all vCPUs and devices."""
        with self._while_paused():
            return self.peek_state()

    def peek_state(self) -> MachineState:
        """Return the state as of now, whether or not the machine runs."""
        with self._held():
            vcpus = tuple(vcpu.peek() for vcpu in self._vcpus)
            devices = self._bus.save()
            gic = None if self._gic is None else self._gic.save()
            return MachineState(vcpus, devices, gic)

    def check_state(self, state: MachineState) -> None:
        """Refuse what load_state would refuse; nothing changes."""
        with self._while_paused():
            if objections := "; ".join(filter(None, self._objections(state))):
                raise StateError(objections)

    def load_state(self, state: MachineState) -> None:
        """Take over a whole machine state; the machine stays paused."""
        with self._while_paused():
            before = [vcpu.peek() for vcpu in self._vcpus]
            if not self._take_vcpus(state):
                for vcpu, each in zip(self._vcpus, before, strict=True):
                    vcpu.put_back(each)
                self.check_state(state)
                raise StateError("a vCPU rejects its state, and takes it when it is asked again")
            for vcpu, vcpu_state in zip(self._vcpus, state.vcpus, strict=True):
                vcpu.report_accepted(vcpu_state)
            self._bus.load(state.devices)
            if self._gic is not None and state.gic is not None:
                self._gic.load(state.gic)

    def _take_vcpus(self, state: MachineState) -> bool:
        """Load the vCPUs' part of a state to which there is no other objection; say if it took it.

        Values are tried by loading them: to try all of them before would double the time, in which
        a guest that moves is paused.
        """
        if any(self._objections_of_parts(state)):
            return False
        states = zip(self._vcpus, state.vcpus, strict=True)
        return all(vcpu.take(each) for vcpu, each in states)

    def _objections(self, state: MachineState) -> Iterator[str]:
        yield from self._objections_of_parts(state)
        for vcpu, vcpu_state in zip(self._vcpus, state.vcpus, strict=False):
            yield vcpu.objection(vcpu_state)

    def _objections_of_parts(self, state: MachineState) -> Iterator[str]:
        """Yield the objections to all but the vCPUs."""
        if len(state.vcpus) != len(self._vcpus):
            yield f"the state is of {len(state.vcpus)} vCPUs, this machine has {len(self._vcpus)}"
        yield from self._bus.objections(state.devices)
        if self._gic is not None:
            yield from self._gic.objections(state.gic)
        else:
            yield from gic_objections(state.gic, None, len(self._vcpus))

    # --- exits ---

    def _handle_exit(self, leave: InterpreterExit) -> None:
        match StopReason(leave.reason):
            case StopReason.MMIO:
                self._exits.mmio(leave)
            case StopReason.HVC:
                self._exits.hvc(leave)
            case StopReason.UNSUPPORTED:
                self._end(RunState.FAILED, unsupported(leave))
            case StopReason.ALARM:
                self._time.ring_due()
            case StopReason.IDLE:
                self._idle(leave.idle_ticks)
            case StopReason.BUDGET | StopReason.INTERRUPTED:
                pass

    def _idle(self, ticks: int) -> None:
        """Let the time pass until something may happen, at most `ticks`.

        Time that counts instructions has jumped to where a timer ends the waiting, if one does:
        what is left is WFE, which ends by itself, and what only a device can end.
        """
        if ticks == NO_DEADLINE:
            self._wait(None)
        elif self._clock is not None:
            self._wait(ticks / COUNTER_HZ)
        else:
            self._wait(_EVENT_WAIT_S)
            self._native.advance(ticks)

    def _reset_parts(self) -> None:
        for vcpu in self._vcpus:
            vcpu.reset_to({})
            vcpu.set_power(PowerState.ON if vcpu.index == 0 else PowerState.OFF)
        self._bus.reset()
        if self._gic is not None:
            self._gic.reset()

    def _release(self) -> None:
        if self._host is not None:
            self._host.close()
        self._native.close()
        self._memory.close()

    def _set_irq(self, level: bool) -> None:
        self._native.set_interrupt(0, InterruptLine.IRQ, level=level)
        self._wakeup.set()

    def _is_ram(self, gpa: int) -> bool:
        try:
            self._memory.locate(Gpa(gpa), 4)
        except AddressError:
            return False
        return True
