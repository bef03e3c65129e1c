"""A KVM guest as a Machine: real vCPUs in threads, tags in the pages of its RAM."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tagalong.access import Direction, View, choose
from tagalong.access.accessor import Accessor
from tagalong.access.ioctl import Ioctl
from tagalong.access.native_host import NativeHost
from tagalong.devices import Pl011
from tagalong.errors import RunStateError, StateError, TagalongError
from tagalong.kvm import pending
from tagalong.kvm.abi import KVM_ARM_TAGS_FROM_GUEST, KVM_ARM_TAGS_TO_GUEST
from tagalong.kvm.build import RAM_GPA, Parts, build
from tagalong.kvm.clock import VirtualTime
from tagalong.kvm.dirty_log import DirtyLog
from tagalong.kvm.exits import ExitHandler
from tagalong.kvm.runner import VcpuThreads
from tagalong.kvm.tag_access import TagAccess
from tagalong.kvm.tag_port import IoctlPort
from tagalong.kvm.vcpu import KvmVcpu
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

_UART: Final = "pl011"


class KvmMachine:
    """Implements the Machine Protocol; see there for what each method promises."""

    def __init__(
        self,
        parts: Parts,
        *,
        console: Callable[[bytes], None] | None = None,
        policy: CpuPolicy = STRICT,
    ) -> None:
        """Take over `parts`; use `create` or `from_description` to make a machine."""
        self._parts = parts
        self._condition = threading.Condition()
        self._state = RunState.PAUSED
        self._failure: Exception | None = None
        self._closed = False
        self._uart = Pl011(console)
        self._time = VirtualTime(parts.vcpus[0])
        self._vcpus = tuple(
            KvmVcpu(index, vcpu, self._time, policy, self._while_paused, parts.identity)
            for index, vcpu in enumerate(parts.vcpus)
        )
        self._threads = VcpuThreads(
            self._condition,
            parts.vcpus,
            ExitHandler(self._uart, self._end).handle,
            lambda error: self._end(RunState.FAILED, error),
        )
        self._throttle = Throttle(self._condition, self._threads.holds)
        self._log = DirtyLog(parts.vm, parts.slots, parts.memory.regions)
        self._host = NativeHost(parts.memory, self._copy_tags)
        self._ioctl = IoctlPort(parts.vm, self._log_suspended)
        self._tags = TagAccess(self._ioctl, parts.memory)

    @classmethod
    def create(
        cls,
        *,
        ram_bytes: int,
        vcpu_count: int = 1,
        seed: int = 0,
        console: Callable[[bytes], None] | None = None,
    ) -> "KvmMachine":
        """Create a paused machine with one RAM region at RAM_GPA.

        `seed` has no meaning here: real time decides how vCPUs interleave. Raises UsageError
        for what cannot be, HostError naming what the host lacks.
        """
        del seed
        return cls(build((RegionDescription(RAM_GPA, ram_bytes),), vcpu_count), console=console)

    @classmethod
    def from_description(
        cls,
        description: MachineDescription,
        *,
        seed: int = 0,
        console: Callable[[bytes], None] | None = None,
        policy: CpuPolicy = STRICT,
        sources: Sequence[RegionSource] | None = None,
    ) -> "KvmMachine":
        """Create the machine that a stream or a snapshot describes. Raises as create() does.

        `sources`: a file's content for the data of each region, taken where
        `Region.has_file_data` says so. Tags are never taken: they are in the pages.
        """
        del seed
        parts = build(
            description.regions,
            description.vcpu_count,
            page_size_bytes=description.page_size_bytes,
            sources=sources,
        )
        return cls(parts, console=console, policy=policy)

    # --- what it is ---

    @property
    def description(self) -> MachineDescription:
        """Return what a destination must provide."""
        return self._parts.description

    @property
    def memory(self) -> GuestMemory:
        """Return guest RAM; its tags are reached through the machine only."""
        return self._parts.memory

    @property
    def vcpus(self) -> Sequence[KvmVcpu]:
        """Return the vCPUs in order of their index."""
        return self._vcpus

    @property
    def host(self) -> NativeHost:
        """Return what access strategies need of this process."""
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
            if self._state is RunState.PAUSED:
                self._threads.stand()
                self._time.go_on()
            self._state = RunState.RUNNING
            self._threads.go()

    def pause(self) -> None:
        """Stop all vCPUs between instructions."""
        with self._condition:
            if self._state is RunState.RUNNING:
                self._state = RunState.PAUSED
            self._threads.stop()
            self._threads.stand()
            if self._threads.are_standing() and not self._closed:
                self._time.stop()
            self._condition.notify_all()

    def wait(self, timeout_s: float | None = None) -> RunState:
        """Block until the machine is not RUNNING, and its vCPUs stand."""

        def is_over() -> bool:
            return self._state is not RunState.RUNNING and self._threads.are_standing()

        with self._condition:
            self._condition.wait_for(is_over, timeout_s)
            return self._state

    def throttle(self, percent: int) -> None:
        """Make the vCPUs stand for a part of the time."""
        with self._condition:
            self._refuse_closed()
            self._throttle.set(percent)

    def standing(self) -> AbstractContextManager[bool]:
        """Keep the vCPUs of a machine that does not run from running."""
        return self._threads.holds.held_unless(self._runs)

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
        self._threads.close()
        self._host.close()
        self._parts.close()

    # --- tags and pages ---

    def read_tags(self, gpa: Gpa, length_bytes: int) -> NDArray[np.uint8]:
        """Return packed allocation tags of a page-aligned range, as a copy."""
        return self._tags.read(gpa, length_bytes)

    def write_tags(self, gpa: Gpa, packed: NDArray[np.uint8]) -> None:
        """Set allocation tags from a page-aligned gpa on."""
        self._tags.write(gpa, packed)

    def read_page_tags(
        self, region: int, pages: NDArray[np.int64], out: NDArray[np.uint8] | None = None
    ) -> NDArray[np.uint8]:
        """Return packed allocation tags of scattered pages, a row each, as a copy."""
        return self._tags.read_pages(region, pages, out)

    def write_page_tags(
        self, region: int, pages: NDArray[np.int64], packed: NDArray[np.uint8]
    ) -> None:
        """Set allocation tags of scattered pages, a row each."""
        self._tags.write_pages(region, pages, packed)

    def use_access(self, name: str) -> AccessChoice:
        """Touch guest RAM by the strategy `name` from now on."""
        self._refuse_closed()
        choice = choose(name, self._host)
        accessor = Accessor(choice.strategy, self.description.page_size_bytes)
        is_ioctl = isinstance(choice.strategy, Ioctl)
        self._tags.port = self._ioctl if is_ioctl else accessor
        for region in self.memory.regions:
            # The data planes are the plain view: its strategies copy as everybody does.
            region.route(None if choice.strategy.view is View.PLAIN else accessor)
        return AccessChoice(choice.strategy.name, choice.reason)

    def populated_pages(self) -> list[PageBitmap]:
        """Return, for each region, the pages that may not be zero."""
        pages = [region.populated_pages() for region in self.memory.regions]
        self._tags.note_used(pages)
        return pages

    def start_dirty_log(self) -> None:
        """Record changed pages from now on."""
        self._refuse_closed()
        self._log.start()

    def harvest_dirty_log(self) -> list[PageBitmap]:
        """Return the pages changed since the last harvest, and start anew."""
        self._refuse_closed()
        pages = self._log.harvest()
        self._tags.note_used(pages)
        return pages

    def stop_dirty_log(self) -> None:
        """Stop recording."""
        self._refuse_closed()
        self._log.stop()

    # --- state ---

    def save_state(self) -> MachineState:
        """Return the state of all vCPUs and devices."""
        with self._while_paused():
            return self._state_now()

    def peek_state(self) -> MachineState:
        """Return the state as of now, of a machine that may be running."""
        with self._condition:
            self._refuse_closed()
        with self._threads.holds.held():
            return self._state_now()

    def check_state(self, state: MachineState) -> None:
        """Raise StateError naming everything that load_state() would refuse; change nothing."""
        with self._while_paused():
            self._check_devices(state)
            pairs = zip(self._vcpus, state.vcpus, strict=True)
            objections = [text for vcpu, each in pairs if (text := vcpu.objection(each))]
            if objections:
                raise StateError("; ".join(objections))

    def load_state(self, state: MachineState) -> None:
        """Take over a whole machine state; the machine stays paused."""
        with self._while_paused():
            events = self._check_devices(state)
            for vcpu, vcpu_state in zip(self._vcpus, state.vcpus, strict=True):
                vcpu.load(vcpu_state)
            for descriptor, each in zip(self._parts.vcpus, events, strict=True):
                descriptor.set_events(each)
            self._uart.load(state.devices[_UART])

    def _state_now(self) -> MachineState:
        vcpus = tuple(vcpu.peek() for vcpu in self._vcpus)
        events = pending.save([vcpu.get_events() for vcpu in self._parts.vcpus])
        return MachineState(vcpus, {_UART: self._uart.save(), **events})

    def _check_devices(self, state: MachineState) -> list[pending.Events]:
        devices = set(state.devices)
        if len(state.vcpus) != len(self._vcpus) or devices - {pending.DEVICE} != {_UART}:
            raise StateError(
                f"state of {len(state.vcpus)} vCPUs and devices {sorted(devices)}; "
                f"this machine has {len(self._vcpus)} and {[_UART]}"
            )
        return pending.load(state.devices.get(pending.DEVICE), len(self._vcpus))

    # --- small help ---

    def _copy_tags(self, gpa: Gpa, tags: NDArray[np.uint8], direction: Direction) -> None:
        """Do KVM_ARM_MTE_COPY_TAGS for the strategies."""
        flags = (
            KVM_ARM_TAGS_FROM_GUEST if direction is Direction.FROM_GUEST else KVM_ARM_TAGS_TO_GUEST
        )
        self._parts.vm.copy_tags(gpa, tags, flags)

    def _end(self, state: RunState, failure: Exception | None) -> None:
        with self._condition:
            if self._state in (RunState.RUNNING, RunState.PAUSED):
                self._state, self._failure = state, failure
            self._threads.stop()
            self._condition.notify_all()

    @contextmanager
    def _while_paused(self) -> Iterator[None]:
        with self._condition:
            if self._runs():
                raise RunStateError("the machine is running: pause it first")
            self._threads.stand()
            yield

    @contextmanager
    def _log_suspended(self) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(self._threads.holds.held())
            stack.enter_context(self._log.suspended())
            yield

    def _runs(self) -> bool:
        self._refuse_closed()
        return self._state is RunState.RUNNING

    def _refuse_closed(self) -> None:
        if self._closed:
            raise RunStateError("the machine is closed")


def why_not() -> TagalongError | None:
    """Return what keeps this host from running a KvmMachine, None if nothing does."""
    try:
        KvmMachine.create(ram_bytes=1 << 16).close()
    except TagalongError as error:
        return error
    return None
