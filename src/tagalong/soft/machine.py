"""The embedded machine as a Machine: one thread runs the interpreter, anyone may ask."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tagalong._native import InterpreterExit
from tagalong.devices import PL011_BYTES, PL011_GPA, Pl011
from tagalong.errors import (
    AddressError,
    MachineError,
    RunStateError,
    StateError,
    TagalongError,
    UnsupportedInstructionError,
)
from tagalong.machine import (
    AccessChoice,
    MachineDescription,
    MachineState,
    RegionDescription,
    RunState,
)
from tagalong.machine.cpu_match import STRICT, CpuPolicy
from tagalong.machine.throttle import Throttle
from tagalong.memory import Gpa, GuestMemory, PageBitmap, RegionSource
from tagalong.mte.registers import MteVersion
from tagalong.soft.build import PAGE_BYTES, create_memory, refuse_foreign
from tagalong.soft.dirty_log import DirtyLog
from tagalong.soft.disassembly import disassemble
from tagalong.soft.exits import DeviceExits
from tagalong.soft.host import SoftHost
from tagalong.soft.native import NativeMachine, StopReason
from tagalong.soft.psci import Psci
from tagalong.soft.ram import SoftRam
from tagalong.soft.runner import Runner
from tagalong.soft.vcpu import SoftVcpu

RAM_GPA: Final = Gpa(0x4000_0000)

_UART: Final = "pl011"  # its name among the devices of a MachineState


class SoftMachine:
    """Implements the Machine Protocol; see there for what each method promises."""

    def __init__(
        self,
        description: MachineDescription,
        *,
        seed: int = 0,
        console: Callable[[bytes], None] | None = None,
        policy: CpuPolicy = STRICT,
        sources: Sequence[RegionSource] | None = None,
    ) -> None:
        """Create a paused machine; `console` gets the guest's output, from the runner thread.

        `sources`: the content of each region, mapped copy-on-write. Raises UsageError for a
        description that this machine cannot be, HostError if the host has no memory for it.
        """
        refuse_foreign(description)
        self._description = description
        self._condition = threading.Condition()
        self._state = RunState.PAUSED
        self._failure: TagalongError | None = None
        self._closed = False
        self._native = NativeMachine(description.vcpu_count, seed)
        self._runner = Runner(
            self._condition,
            self._native,
            lambda: self._state is RunState.RUNNING,
            self._handle_exit,
            self._give_up,
        )
        self._throttle = Throttle(self._condition, self._runner.holds)
        self._memory = create_memory(description, sources)
        for region in self._memory.regions:
            self._native.add_ram(region)
        self._native.add_mmio(PL011_GPA, PL011_BYTES)
        self._dirty_log = DirtyLog(self._native, self._memory.regions)
        self._uart = Pl011(console)
        self._host: SoftHost | None = None
        self._ram = SoftRam(self._memory, lambda: self.host)
        self._vcpus = tuple(
            SoftVcpu(i, self._native, self._while_paused, self._handle_exit, policy)
            for i in range(description.vcpu_count)
        )
        psci = Psci(self._vcpus, self._is_ram, lambda: self._end(RunState.SHUTDOWN))
        self._exits = DeviceExits(self._native, self._uart, self._vcpus, psci)

    @classmethod
    def create(
        cls,
        *,
        ram_bytes: int,
        vcpu_count: int = 1,
        seed: int = 0,
        console: Callable[[bytes], None] | None = None,
    ) -> "SoftMachine":
        """Create a machine with one RAM region at RAM_GPA. Raises as the class does."""
        description = MachineDescription(
            page_size_bytes=PAGE_BYTES,
            vcpu_count=vcpu_count,
            mte_version=MteVersion.MTE3,
            regions=(RegionDescription(RAM_GPA, ram_bytes),),
        )
        return cls(description, seed=seed, console=console)

    @classmethod
    def from_description(
        cls,
        description: MachineDescription,
        *,
        seed: int = 0,
        console: Callable[[bytes], None] | None = None,
        policy: CpuPolicy = STRICT,
        sources: Sequence[RegionSource] | None = None,
    ) -> "SoftMachine":
        """Create the machine that a stream or a snapshot describes. Raises as the class does."""
        return cls(description, seed=seed, console=console, policy=policy, sources=sources)

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

    @property
    def run_state(self) -> RunState:
        """Return what the machine is doing now."""
        return self._state

    @property
    def failure(self) -> Exception | None:
        """Return why the machine is FAILED."""
        return self._failure

    # --- run and stop ---

    def resume(self) -> None:
        """Let all vCPUs run."""
        with self._condition:
            self._refuse_closed()
            if self._state not in (RunState.PAUSED, RunState.RUNNING):
                raise RunStateError(f"the machine cannot run on: it is in {self._state.value}")
            self._state = RunState.RUNNING
            self._runner.go()

    def pause(self) -> None:
        """Stop all vCPUs between instructions."""
        with self._condition:
            if self._state is RunState.RUNNING:
                self._state = RunState.PAUSED
            self._runner.stand()

    def wait(self, timeout_s: float | None = None) -> RunState:
        """Block until the machine is not RUNNING."""
        with self._condition:
            self._condition.wait_for(lambda: self._state is not RunState.RUNNING, timeout_s)
            return self._state

    def throttle(self, percent: int) -> None:
        """Make the vCPUs stand for a part of the time."""
        with self._condition:
            self._refuse_closed()
            self._throttle.set(percent)

    def standing(self) -> AbstractContextManager[bool]:
        """Keep the vCPUs of a machine that does not run from running."""
        return self._runner.holds.held_unless(self._runs)

    def close(self) -> None:
        """Stop and release everything."""
        with self._condition:
            if self._closed:
                return
            self._throttle.set(0)
            self._closed = True
            if self._state is RunState.RUNNING:
                self._state = RunState.PAUSED
            self._condition.notify_all()
        self._runner.close()
        if self._host is not None:
            self._host.close()
        self._native.close()
        self._memory.close()

    # --- tags and pages ---

    def read_tags(self, gpa: Gpa, length_bytes: int) -> NDArray[np.uint8]:
        """Return packed allocation tags of a page-aligned range, as a copy."""
        return self._ram.read_tags(gpa, length_bytes)

    def write_tags(self, gpa: Gpa, packed: NDArray[np.uint8]) -> None:
        """Set allocation tags from a page-aligned gpa on."""
        self._ram.write_tags(gpa, packed)

    def read_page_tags(
        self, region: int, pages: NDArray[np.int64], out: NDArray[np.uint8] | None = None
    ) -> NDArray[np.uint8]:
        """Return packed allocation tags of scattered pages, a row each, as a copy."""
        return self._ram.read_page_tags(region, pages, out)

    def write_page_tags(
        self, region: int, pages: NDArray[np.int64], packed: NDArray[np.uint8]
    ) -> None:
        """Set allocation tags of scattered pages, a row each."""
        self._ram.write_page_tags(region, pages, packed)

    def use_access(self, name: str) -> AccessChoice:
        """Touch guest RAM by the strategy `name` from now on."""
        return self._ram.use_access(name)

    def populated_pages(self) -> list[PageBitmap]:
        """Return, for each region, the pages that may not be zero."""
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

    # --- state ---

    def save_state(self) -> MachineState:
        """Return the state of all vCPUs and devices."""
        with self._while_paused():
            return self.peek_state()

    def peek_state(self) -> MachineState:
        """Return the state as of now, whether or not the machine runs."""
        with self._held():
            vcpus = tuple(vcpu.peek() for vcpu in self._vcpus)
            return MachineState(vcpus, {_UART: self._uart.save()})

    def check_state(self, state: MachineState) -> None:
        """Refuse what load_state would refuse; nothing changes."""
        with self._while_paused():
            if objections := "; ".join(filter(None, self._objections(state))):
                raise StateError(objections)

    def load_state(self, state: MachineState) -> None:
        """Take over a whole machine state; the machine stays paused."""
        with self._while_paused():
            self.check_state(state)
            self._uart.load(state.devices[_UART])
            for vcpu, vcpu_state in zip(self._vcpus, state.vcpus, strict=True):
                vcpu.take(vcpu_state)

    def _objections(self, state: MachineState) -> Iterator[str]:
        if len(state.vcpus) != len(self._vcpus) or set(state.devices) != {_UART}:
            yield (
                f"state of {len(state.vcpus)} vCPUs and devices {sorted(state.devices)}: "
                f"this machine has {len(self._vcpus)} and {[_UART]}"
            )
        if _UART in state.devices:
            yield self._uart.objection(state.devices[_UART])
        for vcpu, vcpu_state in zip(self._vcpus, state.vcpus, strict=False):
            yield vcpu.objection(vcpu_state)

    # --- exits ---

    def _handle_exit(self, leave: InterpreterExit) -> None:
        match StopReason(leave.reason):
            case StopReason.MMIO:
                self._exits.mmio(leave)
            case StopReason.HVC:
                self._exits.hvc(leave)
            case StopReason.UNSUPPORTED:
                self._fail(leave)
            case StopReason.IDLE:
                self._runner.idle()
            case StopReason.BUDGET | StopReason.INTERRUPTED | StopReason.DEADLINE:
                pass

    def _fail(self, leave: InterpreterExit) -> None:
        self._failure = UnsupportedInstructionError(
            vcpu=leave.vcpu,
            pc=leave.pc,
            encoding=leave.insn,
            disassembly=disassemble(leave.insn, leave.pc),
        )
        self._end(RunState.FAILED)

    def _give_up(self, error: Exception) -> None:
        self._failure = MachineError(f"a device of the machine failed: {error!r}")
        self._failure.__cause__ = error
        self._end(RunState.FAILED)

    def _end(self, state: RunState) -> None:
        with self._condition:
            self._state = state
            self._condition.notify_all()

    # --- small help ---

    @contextmanager
    def _held(self) -> Iterator[None]:
        """Keep the vCPUs between instructions for the length of the block."""
        with self._condition:
            self._refuse_closed()
            with self._runner.holds.held():
                yield

    @contextmanager
    def _while_paused(self) -> Iterator[None]:
        with self._condition:
            if self._runs():
                raise RunStateError("the machine is running: pause it first")
            self._runner.stand()
            yield

    def _is_ram(self, gpa: int) -> bool:
        try:
            self._memory.locate(Gpa(gpa), 4)
        except AddressError:
            return False
        return True

    def _runs(self) -> bool:
        self._refuse_closed()
        return self._state is RunState.RUNNING

    def _refuse_closed(self) -> None:
        if self._closed:
            raise RunStateError("the machine is closed")
