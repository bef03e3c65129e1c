"""A KVM guest as a Machine: real vCPUs in threads, tags in the pages of its RAM."""

from __future__ import annotations

import mmap
import threading
from contextlib import ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING, Self

from tagalong._lazy import module_when_used
from tagalong.devices import (
    DeviceBus,
    DeviceModels,
    HostTime,
    SharedInput,
    StatusDevice,
    built_in_models,
    create_devices,
)
from tagalong.errors import StateError, TagalongError, UsageError
from tagalong.kvm import pending
from tagalong.kvm.abi import KVM_ARM_TAGS_FROM_GUEST, KVM_ARM_TAGS_TO_GUEST, Cap
from tagalong.kvm.build import (
    RAM_GPA,
    Parts,
    build,
    identity_of_host,
    initialise_vcpus,
    mte_version_of_host,
)
from tagalong.kvm.clock import VirtualTime
from tagalong.kvm.dirty_log import KvmDirtyLog
from tagalong.kvm.exits import KvmExits
from tagalong.kvm.runner import KvmRunner
from tagalong.kvm.tag_access import KvmTagAccess
from tagalong.kvm.tag_port import IoctlPort
from tagalong.kvm.vcpu import KvmVcpu
from tagalong.machine import (
    DEFAULT_CONSOLE,
    AccessChoice,
    Clock,
    DeviceDescription,
    GicDescription,
    MachineDescription,
    MachineState,
    RegionDescription,
)
from tagalong.machine.cpu_match import STRICT, CpuPolicy
from tagalong.machine.gic import gic_objections
from tagalong.machine.lifecycle import MachineLifecycle
from tagalong.machine.tag_ranges import read_tag_range, write_tag_range
from tagalong.mte import GRANULE_BYTES, PACKED_RATIO

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    import tagalong.access as strategies
    from tagalong.access import native_host
    from tagalong.memory import Gpa, GuestMemory, PageBitmap, RegionSource
else:  # of access strategies that are not KVM's own
    strategies = module_when_used("tagalong.access")
    native_host = module_when_used("tagalong.access.native_host")


class KvmMachine(MachineLifecycle):
    """Implements the Machine Protocol; see there for what each method promises."""

    def __init__(
        self,
        parts: Parts,
        *,
        console: Callable[[bytes], None] | None = None,
        policy: CpuPolicy = STRICT,
        models: DeviceModels | None = None,
    ) -> None:
        """Take over `parts`; use `create` or `from_description` to make a machine.

        Raises UsageError for devices that cannot be; the caller closes `parts` then.
        """
        condition = threading.Condition()
        self._parts = parts
        self._bus = DeviceBus(
            create_devices(
                parts.description.devices,
                {**built_in_models(console, HostTime()), **(models or {})},
            ),
            parts.memory,
            SharedInput(parts.vm.set_irq) if parts.gic is None else parts.gic.set_line,
        )
        if parts.vm.check(Cap.KVM_CAP_IOEVENTFD):
            for doorbell in self._bus.doorbells:
                parts.vm.add_doorbell(doorbell)
        self._connect_devices()
        clock = VirtualTime(parts.vcpus[0])
        exits = KvmExits(self._bus, self._end)
        runner = KvmRunner(condition, parts.vcpus, exits.handle, self._fail)
        super().__init__(condition, runner, self._bus, clock)
        self._vcpus = tuple(
            KvmVcpu(index, vcpu, clock, policy, self._while_paused, parts.identity)
            for index, vcpu in enumerate(parts.vcpus)
        )
        self._log = KvmDirtyLog(parts.vm, parts.slots, parts.memory.regions)
        self._host: native_host.NativeHost | None = None
        self._port = IoctlPort(parts.vm, self._log_suspended)
        self._tags = KvmTagAccess(self._port, parts.memory)

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
        """Create a paused machine with one RAM region at RAM_GPA.

        `seed` has no meaning here: real time decides how vCPUs interleave. `models`: kinds of
        devices beside the built-in ones. Raises UsageError for what cannot be, HostError naming
        what the host lacks.
        """
        del seed
        regions = (RegionDescription(RAM_GPA, ram_bytes),)
        parts = build(regions, vcpu_count, devices=tuple(devices))
        return cls._of_parts(parts, console=console, models=models)

    @classmethod
    def describe(
        cls,
        *,
        ram_bytes: int,
        vcpu_count: int = 1,
        devices: Sequence[DeviceDescription] = (DEFAULT_CONSOLE,),
        gic: GicDescription | None = None,
    ) -> MachineDescription:
        """Return the description of a machine with one RAM region at RAM_GPA, on this host.

        Raises HostError naming what the host lacks, UsageError as MachineDescription.
        """
        return MachineDescription(
            page_size_bytes=mmap.PAGESIZE,
            vcpu_count=vcpu_count,
            mte_version=mte_version_of_host(gic),
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
        """Create the machine that a stream or a snapshot describes. Raises as create() does.

        `sources`: a file's content for the data of each region, taken where
        `Region.has_file_data` says so. Tags are never taken: they are in the pages.
        """
        del seed
        parts = build(
            description.regions,
            description.vcpu_count,
            page_size_bytes=description.page_size_bytes,
            devices=description.devices,
            gic=description.gic,
            sources=sources,
        )
        return cls._of_parts(parts, console=console, policy=policy, models=models)

    @classmethod
    def _of_parts(
        cls,
        parts: Parts,
        *,
        console: Callable[[bytes], None] | None,
        models: DeviceModels | None,
        policy: CpuPolicy = STRICT,
    ) -> Self:
        try:
            return cls(parts, console=console, policy=policy, models=models)
        except BaseException:
            parts.close()
            raise

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
    def host(self) -> native_host.NativeHost:
        """Return what access strategies need of this process, made when it is first asked for."""
        if self._host is None:
            self._host = native_host.NativeHost(self._parts.memory, self._copy_tags)
        return self._host

    @property
    def answered_accesses(self) -> int:
        """Return how many accesses of the guest to devices native code has answered."""
        return sum(vcpu.exit.answered for vcpu in self._parts.vcpus)

    # --- tags and pages ---

    def read_tags(self, gpa: int, length_bytes: int) -> NDArray[np.uint8]:
        """Return packed allocation tags of a range, as a copy."""
        self._refuse_closed()
        self.memory.locate(gpa, length_bytes)
        page = self.description.page_size_bytes
        return read_tag_range(self._tags.read, gpa, length_bytes, page)

    def write_tags(self, gpa: int, packed: NDArray[np.uint8]) -> None:
        """Set the packed allocation tags from a gpa on."""
        self._refuse_closed()
        length, page = packed.size * PACKED_RATIO, self.description.page_size_bytes
        self.memory.locate(gpa, length)
        with self._held_for_parts_of_pages(gpa, length, max(page, mmap.PAGESIZE)):
            write_tag_range(self._tags.read, self._tags.write, gpa, packed, page)

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
        # A smaller page than the host's is a part of one, which is written as a whole.
        has_parts = self.description.page_size_bytes % mmap.PAGESIZE
        with self._held() if has_parts else nullcontext():
            self._tags.write_pages(region, pages, packed)

    def use_access(self, name: str) -> AccessChoice:
        """Touch guest RAM by the strategy `name` from now on."""
        self._refuse_closed()
        return self._tags.use_access(name, lambda: self.host)

    def use_clock(self, clock: Clock) -> None:
        """Let the guest's time follow `clock`, which can only be the host's."""
        self._refuse_closed()
        if clock is not Clock.HOST:
            raise UsageError("machine 'kvm' cannot count instructions: its time is the host's")

    def populated_pages(self) -> list[PageBitmap]:
        """Return, for each region, the pages that may not be zero."""
        self._refuse_closed()
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
        with self._runner.holds.held():
            return self._state_now()

    def check_state(self, state: MachineState) -> None:
        """Raise StateError naming everything that load_state() would refuse; change nothing."""
        with self._while_paused():
            if objections := "; ".join(filter(None, self._objections(state))):
                raise StateError(objections)

    def load_state(self, state: MachineState) -> None:
        """Take over a whole machine state; the machine stays paused."""
        with self._while_paused():
            if objections := "; ".join(filter(None, self._device_objections(state))):
                raise StateError(objections)
            events = pending.load(state.devices.get(pending.DEVICE), len(self._vcpus))
            self._bus.load(state.devices)
            if self._parts.gic is not None and state.gic is not None:
                self._parts.gic.load(state.gic)
            for vcpu, vcpu_state in zip(self._vcpus, state.vcpus, strict=True):
                vcpu.load(vcpu_state)
            for descriptor, each in zip(self._parts.vcpus, events, strict=True):
                descriptor.set_events(each)

    def _objections(self, state: MachineState) -> Iterator[str]:
        yield from self._device_objections(state)
        for vcpu, each in zip(self._vcpus, state.vcpus, strict=False):
            yield vcpu.objection(each)

    def _device_objections(self, state: MachineState) -> Iterator[str]:
        if len(state.vcpus) != len(self._vcpus):
            yield f"the state is of {len(state.vcpus)} vCPUs, this machine has {len(self._vcpus)}"
        devices = dict(state.devices)
        events = devices.pop(pending.DEVICE, None)
        yield from self._bus.objections(devices)
        if self._parts.gic is None:
            yield from gic_objections(state.gic, None, len(self._vcpus))
        else:
            yield from self._parts.gic.objections(state.gic)
        yield pending.objection(events, len(self._vcpus))

    def _state_now(self) -> MachineState:
        vcpus = tuple(vcpu.peek() for vcpu in self._vcpus)
        events = pending.save([vcpu.get_events() for vcpu in self._parts.vcpus])
        gic = None if self._parts.gic is None else self._parts.gic.save()
        return MachineState(vcpus, {**self._bus.save(), **events}, gic)

    # --- small help ---

    def _connect_devices(self) -> None:
        """Let native code answer what it can, and KVM's lines follow interrupt statuses.

        Without a GIC all lines share one input, which is not KVM's to drive.
        """
        gic, statuses = self._parts.gic, []
        for device in self._bus.devices if gic is not None else ():
            described = device.description
            if gic is not None and isinstance(device, StatusDevice) and described.interrupt:
                gic.connect(device.interrupt_status, described.interrupt, described.gpa)
                statuses.append(device.interrupt_status)
        for vcpu in self._parts.vcpus:
            vcpu.answer(statuses, self._bus.published)

    def _copy_tags(
        self, gpa: Gpa, tags: NDArray[np.uint8], direction: strategies.Direction
    ) -> None:
        """Do KVM_ARM_MTE_COPY_TAGS for the strategies."""
        if direction is strategies.Direction.FROM_GUEST:
            self._port.copy(gpa, tags, KVM_ARM_TAGS_FROM_GUEST)
            return
        is_whole = self._port.is_whole(gpa, tags.size * GRANULE_BYTES)
        with nullcontext() if is_whole else self._held():
            self._port.copy(gpa, tags, KVM_ARM_TAGS_TO_GUEST)

    def _reset_parts(self) -> None:
        initialise_vcpus(self._parts.vm, self._parts.vcpus)
        for vcpu in self._vcpus:
            vcpu.reset()
        self._bus.reset()
        if self._parts.gic is not None:
            self._parts.gic.reset()

    def _release(self) -> None:
        if self._host is not None:
            self._host.close()
        self._parts.close()

    @contextmanager
    def _log_suspended(self) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(self._runner.holds.held())
            stack.enter_context(self._log.suspended())
            yield


def why_not(gic: GicDescription | None = None) -> TagalongError | None:
    """Return why this host cannot run a vCPU of a KvmMachine, None if it can.

    `gic`: of the machine that is going to be made, which needs no other VM to be asked then.
    """
    try:
        identity_of_host(gic)
    except TagalongError as error:
        return error
    return None
