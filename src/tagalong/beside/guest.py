"""The guest of another VMM as a Machine, for the migration engine: its tags are ours, no more.

Its data planes are memory that is never used and always zero. Its vCPUs, registers and devices are
the VMM's. What is left is what a migration of tags needs: regions, the tags of pages, and which
pages are to be read again.
"""

import ctypes
from contextlib import AbstractContextManager, nullcontext
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from tagalong.beside.harvested import HarvestedTags
from tagalong.beside.link import LibraryLink
from tagalong.beside.link_format import MAX_SLOTS, Harvest, LinkState, MemorySlot, SlotFlag, VmFlag
from tagalong.beside.moments import Moments
from tagalong.errors import (
    AddressError,
    HostError,
    MachineMismatchError,
    MigrationError,
    RunStateError,
    UsageError,
)
from tagalong.machine import (
    AccessChoice,
    MachineDescription,
    MachineState,
    PowerState,
    RegionDescription,
    RunState,
    Vcpu,
    VcpuState,
)
from tagalong.memory import Gpa, GuestMemory, PageBitmap, Region
from tagalong.memory.rows import check_tag_rows, tag_rows
from tagalong.mte import PACKED_RATIO

_AT_HWCAP2: Final = 26
_HWCAP2_MTE: Final = 1 << 18
_HWCAP2_MTE3: Final = 1 << 22

_NOT_OURS = "the VM's own VMM does this"
_RAN_ON = (
    "the guest ran on after its last tags were read: the VMM's migration has ended, or the guest "
    "was continued"
)


class VmmDeparture(Protocol):
    """What the VMM does with a guest whose tags leave. `moments` notes when the last were taken."""

    moments: Moments

    @property
    def run_state(self) -> RunState:
        """Return what the guest is doing."""
        ...

    def begin(self) -> None:
        """Let the data leave, too: the destination is ready for tags, and the log is on.

        Raises MigrationError.
        """
        ...

    def check(self) -> None:
        """Raise MigrationError if the tags cannot go on: the VMM's migration has ended, say."""
        ...

    def note_due(self, ram_bytes: int) -> None:
        """Note that the tags of so much guest RAM are to be sent now."""
        ...

    @property
    def is_near_end(self) -> bool:
        """Return whether the guest may be stopped soon: then little is to be left for that."""
        ...

    def check_time(self) -> None:
        """Raise ConvergenceError if the guest is stopped for longer than it may be. Quick."""
        ...

    @property
    def is_final(self) -> bool:
        """Return whether no vCPU enters the guest any more, unless the migration fails."""
        ...


def host_mte_version() -> int:
    """Return ID_AA64PFR1_EL1.MTE as this host's kernel tells it: 0, 2, or 3."""
    libc = ctypes.CDLL(None)
    libc.getauxval.restype = ctypes.c_ulong
    libc.getauxval.argtypes = (ctypes.c_ulong,)
    capabilities = libc.getauxval(_AT_HWCAP2)
    if not capabilities & _HWCAP2_MTE:
        return 0
    return 3 if capabilities & _HWCAP2_MTE3 else 2


def require_usable(state: LinkState) -> None:
    """Raise HostError naming why the tags of this VM cannot be carried."""
    if not state.flags & VmFlag.HAS_VM:
        raise HostError(
            "the VMM has made no VM with memory yet: is it one that uses KVM (-accel kvm)?"
        )
    if not state.flags & VmFlag.HAS_MTE:
        raise HostError(
            "KVM on this host does not give its VMs tags (KVM_CAP_ARM_MTE): `tagalong probe` says "
            "why"
        )
    if state.flags & VmFlag.VMM_ASKED_FOR_MTE:
        raise HostError(
            "the VMM has asked for tags itself (mte=on), and refuses to migrate such a VM: start "
            "it without mte=on, the guest has tags all the same"
        )
    if state.flags & VmFlag.TOO_MANY_SLOTS:
        raise HostError(
            f"the VM has more than {MAX_SLOTS} memory slots, which is as many as tagalong carries: "
            "give it fewer devices with memory of their own"
        )
    if state.flags & VmFlag.DIRTY_RING:
        raise HostError(
            "the VMM uses KVM's dirty ring, which tells only the VMM which pages have changed: "
            "start it without dirty-ring-size"
        )


def ram_slots(link: LibraryLink, state: LinkState) -> tuple[MemorySlot, ...]:
    """Return the slots that the guest can write, which are those that can have tags."""
    slots = link.slots(state.page_bytes)
    return tuple(slot for slot in slots if not slot.flags & SlotFlag.READ_ONLY)


class BesideGuest:
    """The VM behind a link as it is now; implements machine.Machine. Not started or stopped here.

    `guest_id`: as in MachineDescription. Raises HostError if its tags cannot be carried, or the
    link broke.
    """

    def __init__(self, link: LibraryLink, *, guest_id: bytes = b"") -> None:
        self.link = link
        state = link.state()
        require_usable(state)
        self._page_bytes = state.page_bytes
        self._generation = state.generation
        self._slots = ram_slots(link, state)
        if not self._slots:
            raise HostError("the VMM has given its VM no memory yet")
        self.description = MachineDescription(
            page_size_bytes=state.page_bytes,
            vcpu_count=max(1, state.vcpu_count),
            mte_version=host_mte_version() or 2,
            regions=tuple(RegionDescription(Gpa(it.gpa), it.size_bytes) for it in self._slots),
            devices=(),
            has_data=False,
            guest_id=guest_id,
        )
        self.memory = GuestMemory(
            [
                Region.create(it.gpa, it.size_bytes, page_size_bytes=self._page_bytes)
                for it in self._slots
            ]
        )
        self.vcpus: tuple[Vcpu, ...] = ()
        self.failure: Exception | None = None

    @property
    def is_shared(self) -> bool:
        """Return whether another process could have all of this memory, too."""
        return all(slot.flags & SlotFlag.SHARED for slot in self._slots)

    # --- tags ---

    def read_page_tags(
        self, region: int, pages: NDArray[np.int64], out: NDArray[np.uint8] | None = None
    ) -> NDArray[np.uint8]:
        """As Machine. Raises HostError, too, if the link broke."""
        self.memory.region_of_pages(region, pages)
        rows = tag_rows(pages.size, self._page_bytes, out)
        self.link.read_tags(self._slots[region].number, pages, self._page_bytes, rows)
        return rows

    def write_page_tags(
        self, region: int, pages: NDArray[np.int64], packed: NDArray[np.uint8]
    ) -> None:
        """As Machine. Raises HostError, too, if the link broke or KVM refuses."""
        self.memory.region_of_pages(region, pages)
        check_tag_rows(pages.size, self._page_bytes, packed)
        self.link.write_tags(self._slots[region].number, pages, self._page_bytes, packed)

    def read_tags(self, gpa: int, length_bytes: int) -> NDArray[np.uint8]:
        """As Machine."""
        region, offset = self.memory.locate(gpa, length_bytes)
        if offset % PACKED_RATIO or length_bytes % PACKED_RATIO:
            raise AddressError(f"[{gpa:#x}, +{length_bytes:#x}) is not of whole tag bytes")
        first, stop = offset // self._page_bytes, -(-(offset + length_bytes) // self._page_bytes)
        number = self.memory.regions.index(region)
        rows = self.read_page_tags(number, np.arange(first, stop))
        start = (offset - first * self._page_bytes) // PACKED_RATIO
        return rows.reshape(-1)[start : start + length_bytes // PACKED_RATIO]

    def write_tags(self, gpa: int, packed: NDArray[np.uint8]) -> None:
        """Raise UsageError: nothing here writes less than a page's tags."""
        raise UsageError(
            f"{packed.size} bytes of tags at {gpa:#x}: only those of whole pages are written here"
        )

    def populated_pages(self) -> list[PageBitmap]:
        """As Machine."""
        return [
            self.link.populated(slot.number, region.page_count)
            for slot, region in zip(self._slots, self.memory.regions, strict=True)
        ]

    # --- what the VMM does ---

    @property
    def run_state(self) -> RunState:
        """Return RUNNING: whether it runs makes no difference here."""
        return RunState.RUNNING

    def resume(self) -> None:
        """Raise RunStateError."""
        raise RunStateError(_NOT_OURS)

    def pause(self) -> None:
        """Raise RunStateError."""
        raise RunStateError(_NOT_OURS)

    def reset(self) -> None:
        """Raise RunStateError."""
        raise RunStateError(_NOT_OURS)

    def activate(self) -> None:
        """Do nothing: the guest's disks are its VMM's."""

    def inactivate(self) -> None:
        """Do nothing, as `activate`."""

    def wait(self, timeout_s: float | None = None) -> RunState:
        """Raise RunStateError."""
        raise RunStateError(f"{_NOT_OURS}: {timeout_s}")

    def vcpu_threads(self) -> tuple[int | None, ...]:
        """Return None for each vCPU: its thread is the VMM's."""
        return (None,) * self.description.vcpu_count

    def throttle(self, percent: int) -> None:
        """Do nothing for 0. Raises UsageError: a VMM has its own way to slow a guest down."""
        if percent:
            raise UsageError(
                "tagalong cannot slow down the guest of another VMM: use the VMM's auto-converge"
            )

    def hold_if_paused(self) -> AbstractContextManager[bool]:
        """Return a block in which the guest may run."""
        return nullcontext(False)

    def use_access(self, name: str) -> AccessChoice:
        """Raise UsageError: there is one way to reach these tags."""
        raise UsageError(f"access {name}: the tags of this VM are reached by KVM's ioctl only")

    def start_dirty_log(self) -> None:
        """Raise RunStateError: see DepartingGuest."""
        raise RunStateError(_NOT_OURS)

    def harvest_dirty_log(self) -> list[PageBitmap]:
        """Raise RunStateError: see DepartingGuest."""
        raise RunStateError(_NOT_OURS)

    def stop_dirty_log(self) -> None:
        """Do nothing: no log is on."""

    def save_state(self) -> MachineState:
        """Return a state of vCPUs without registers: the VMM's stream has them."""
        vcpu = VcpuState({}, PowerState.ON)
        return MachineState((vcpu,) * self.description.vcpu_count)

    def peek_state(self) -> MachineState:
        """As `save_state`."""
        return self.save_state()

    def check_state(self, state: MachineState) -> None:
        """Accept what `save_state` returns. Raises StateError for registers or devices."""
        if state.devices or any(vcpu.registers for vcpu in state.vcpus):
            raise MachineMismatchError(
                "the stream has registers or devices, which the VMM's own stream carries"
            )

    def load_state(self, state: MachineState) -> None:
        """As `check_state`."""
        self.check_state(state)

    def close(self) -> None:
        """Give up what stands for the guest's memory. The link stays."""
        self.memory.close()


class DepartingGuest(BesideGuest):
    """A guest whose tags leave, while the VMM moves the rest."""

    def __init__(
        self, link: LibraryLink, departure: VmmDeparture, *, guest_id: bytes = b""
    ) -> None:
        super().__init__(link, guest_id=guest_id)
        self._departure = departure
        self._harvested = [HarvestedTags() for _ in self._slots]
        self._final_runs: int | None = None  # of the harvest that took all that was left
        self._has_begun = False

    @property
    def run_state(self) -> RunState:
        """Return what the guest is doing."""
        return self._departure.run_state

    def start_dirty_log(self) -> None:
        """Owe all tags, then let the VMM's migration begin. Raises MigrationError, HostError."""
        self.link.start_log()
        self._has_begun = False
        self._departure.begin()

    def populated_pages(self) -> list[PageBitmap]:
        """Return the pages to begin a migration with: those that are protected by now.

        What can be written unseen would have to be read again in any case. Later: as Machine.
        """
        if self._has_begun:
            return super().populated_pages()
        self._has_begun = True
        return self.harvest_dirty_log()

    def harvest_dirty_log(self) -> list[PageBitmap]:
        """Return the pages to read now; all that are left once the guest has stopped for good.

        Raises MigrationError if that cannot be right: a vCPU is in the guest, or memory was
        plugged.
        """
        self._departure.check()
        if not self._departure.is_final:
            self._final_runs = None
            is_near_end = self._departure.is_near_end
            return self._harvest(Harvest.PROTECTING if is_near_end else Harvest.LIVE)
        if self._final_runs is not None and self._final_runs == self._runs_of_stopped(
            self.link.state()
        ):  # what was taken then is sent since, and nothing has changed
            return [PageBitmap(region.page_count) for region in self.memory.regions]
        self._final_runs = None
        taken = self._harvest(Harvest.FINAL)
        self._departure.moments.note("taken")
        return taken

    def read_page_tags(
        self, region: int, pages: NDArray[np.int64], out: NDArray[np.uint8] | None = None
    ) -> NDArray[np.uint8]:
        """As BesideGuest, as they were at the last harvest or later.

        Raises ConvergenceError if that takes longer than the guest may be stopped.
        """
        rows = tag_rows(pages.size, self._page_bytes, out)
        left = self._harvested[region].copy_into(rows, pages)
        if left.size == pages.size:
            self._read_tags(region, pages, rows)
        elif left.size:
            rest = tag_rows(left.size, self._page_bytes, None)
            self._read_tags(region, pages[left], rest)
            rows[left] = rest
        return rows

    def _read_tags(self, region: int, pages: NDArray[np.int64], rows: NDArray[np.uint8]) -> None:
        self.memory.region_of_pages(region, pages)
        check = self._departure.check_time
        self.link.read_tags(self._slots[region].number, pages, self._page_bytes, rows, check)

    def _harvest(self, kind: Harvest) -> list[PageBitmap]:
        taken = []
        for number, slot in enumerate(self._slots):
            count = self.memory.regions[number].page_count
            harvested = self.link.harvest(slot.number, count, self._page_bytes, kind)
            self._require_same_slots(harvested.state)
            if kind is Harvest.FINAL:
                self._note_final(harvested.state)
            self._harvested[number].add(harvested.pages.pages(), harvested.tags)
            taken.append(harvested.pages)
        if kind is not Harvest.FINAL:
            due = sum(pages.count() for pages in taken)
            self._departure.note_due(due * self._page_bytes)
        return taken

    def _note_final(self, state: LinkState) -> None:
        runs = self._runs_of_stopped(state)
        if self._final_runs not in (None, runs):
            raise MigrationError(_RAN_ON)
        self._final_runs = runs

    def require_final(self) -> None:
        """Check that the tags of the last harvest are the last indeed.

        Raises MigrationError if a vCPU has entered the guest since, memory was plugged, or the
        VMM's migration has ended.
        """
        self._departure.check()
        state = self.link.state()
        self._require_same_slots(state)
        if self._runs_of_stopped(state) != self._final_runs:
            raise MigrationError(_RAN_ON)

    def is_ending(self) -> bool:
        """Return whether the VMM's process ends, so that no vCPU enters the guest any more.

        Raises HostError if it has ended.
        """
        return bool(self.link.state().flags & VmFlag.ENDING)

    def no_vcpu_runs(self) -> bool:
        """Return whether every vCPU is out of the guest. Raises HostError if the link broke."""
        return not self.link.state().vcpus_running

    def stop_dirty_log(self) -> None:
        """Owe nothing any more."""
        self.link.stop_log()

    def _require_same_slots(self, state: LinkState) -> None:
        if state.generation == self._generation:
            return
        now = ram_slots(self.link, state)
        if [(it.number, it.gpa, it.size_bytes) for it in now] != [
            (it.number, it.gpa, it.size_bytes) for it in self._slots
        ]:
            raise MigrationError(
                "the VM's memory slots have changed while its tags were sent (memory or a device "
                "was plugged or unplugged): migrate again, without plugging meanwhile"
            )
        self._generation = state.generation

    @staticmethod
    def _runs_of_stopped(state: LinkState) -> int:
        """Return how often vCPUs have entered the guest. Raises MigrationError if one is in it."""
        if state.vcpus_running:
            raise MigrationError(
                f"{state.vcpus_running} vCPUs are in the guest although its VMM says that it has "
                "stopped: nothing was handed over"
            )
        return state.runs
