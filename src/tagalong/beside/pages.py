"""A guest of another VMM, to be looked at: data, tags and registers, by the library in the VMM.

The library is in the one process that KVM answers, whatever privileges ours has, and it sees the
guest's memory as the VMM does, private or shared. Reading fills no hole of it.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from tagalong.beside.guest import host_mte_version, ram_slots
from tagalong.beside.link import LibraryLink
from tagalong.beside.link_format import MAX_SLOTS, MemorySlot, VcpuRegisters, VmFlag
from tagalong.errors import CoreError, HostError, NoTagsError
from tagalong.machine import (
    MachineDescription,
    MachineState,
    MemoryMap,
    PowerState,
    RegionDescription,
    RegisterId,
    VcpuState,
    register_ids,
)
from tagalong.memory import Gpa, PageBitmap, run_pages
from tagalong.mte import PACKED_RATIO
from tagalong.mte.version import MteVersion
from tagalong.qemu.known import VIRT_DEVICES, VIRT_RAM

_STOPPED: Final = 5  # KVM_MP_STATE_STOPPED
# KVM_REG_ARM64_SVE_ZREG(n, 0): with SVE, V is the lower part of Z, and has no id of its own.
_Z_REGISTERS: Final = range(0x6080_0000_0015_0000, 0x6080_0000_0015_0400, 1 << 5)
_V_MASK: Final = (1 << 128) - 1


class BesidePages:
    """The VM behind a link, its memory as a PageSource. Used by one thread.

    Memory below the RAM of the virt machine belongs to devices (flash, BARs) and is left out.
    Pages that the guest changes meanwhile are torn. Raises HostError if there is no VM, or the link
    broke.
    """

    def __init__(self, link: LibraryLink) -> None:
        self._link = link
        state = link.state()
        if not state.flags & VmFlag.HAS_VM:
            raise HostError("the VMM has made no VM with memory yet")
        if state.flags & VmFlag.TOO_MANY_SLOTS:
            raise HostError(
                f"the VM has more than {MAX_SLOTS} memory slots, so some of its memory is not "
                "known: give it fewer devices with memory of their own"
            )
        self._slots = self._ram()
        if not self._slots:
            raise HostError("the VMM has given its VM no memory yet")
        has_tags = bool(state.flags & VmFlag.HAS_MTE)
        self.description = MachineDescription(
            page_size_bytes=state.page_bytes,
            vcpu_count=max(1, state.vcpu_count),
            mte_version=(host_mte_version() or MteVersion.MTE2) if has_tags else MteVersion.NONE,
            regions=tuple(RegionDescription(Gpa(it.gpa), it.size_bytes) for it in self._slots),
            devices=(VIRT_DEVICES,),
        )
        self.memory = MemoryMap.of(self.description)
        self._used = self._used_pages()
        self._runs = state.runs

    def _ram(self) -> tuple[MemorySlot, ...]:
        slots = ram_slots(self._link, self._link.state())
        return tuple(slot for slot in slots if slot.gpa >= VIRT_RAM)

    def _used_pages(self) -> list[PageBitmap]:
        return [
            self._link.populated(slot.number, self.memory.page_count(number))
            for number, slot in enumerate(self._slots)
        ]

    # --- as PageSource ---

    def populated_pages(self) -> list[PageBitmap]:
        """As PageSource: what was no hole at the beginning."""
        return [each.copy() for each in self._used]

    def changed_pages(self) -> list[PageBitmap]:
        """As PageSource. KVM's log is the VMM's, and lacks its stores: all pages in use."""
        self._used = self._used_pages()
        return self.populated_pages()

    def data(self, number: int, runs: NDArray[np.int64]) -> NDArray[np.uint8]:
        """As PageSource: a copy; zeros for holes. Raises HostError if the link broke."""
        page, pages = self.memory.page_size_bytes, run_pages(runs)
        is_used = self._are_used(number, pages)
        rows = np.empty((int(np.count_nonzero(is_used)), page), np.uint8)
        if len(rows):
            self._link.read_data(self._slots[number].number, pages[is_used], page, rows)
        return _among_zeros(rows, is_used)

    def tags(self, number: int, first: int, count: int) -> NDArray[np.uint8]:
        """As PageSource; zeros for holes. Raises HostError if the link broke."""
        page, here = self.memory.page_size_bytes, self.memory.ranges[number]
        if not here.has_tags:
            raise NoTagsError("this VM has no tags", address=here.address + first * page)
        pages = np.arange(first, first + count)
        is_used = self._are_used(number, pages)
        rows = np.empty((int(np.count_nonzero(is_used)), page // PACKED_RATIO), np.uint8)
        if len(rows):
            self._link.read_tags(self._slots[number].number, pages[is_used], page, rows)
        return _among_zeros(rows, is_used)

    def _are_used(self, number: int, pages: NDArray[np.int64]) -> NDArray[np.bool_]:
        words = self._used[number].words
        bits = words[pages // 64] >> (pages % 64).astype(np.uint64) & np.uint64(1)
        return bits.astype(np.bool_)

    # --- what else is known of the VM ---

    def read_state(self) -> MachineState:
        """Return the registers of all vCPUs, of one moment: the guest must not run.

        Raises HostError if it does, or the link broke.
        """
        vcpus = tuple(
            _vcpu_state(self._link.read_registers(number))
            for number in range(self.description.vcpu_count)
        )
        return MachineState(vcpus, {VIRT_DEVICES.name: b""})

    def require_same(self, *, was_paused: bool) -> None:
        """Raise CoreError if the memory here is not the same any more, or the guest ran.

        `was_paused`: it should not have run since this was made.
        """
        state = self._link.state()
        if self._ram() != self._slots:
            raise CoreError(
                "the VM's memory slots have changed while it was dumped (memory or a device was "
                "plugged or unplugged): dump it again, without plugging meanwhile"
            )
        if was_paused and (state.vcpus_running or state.runs != self._runs):
            raise CoreError(
                "the guest was continued while it was dumped, so its memory is not of one moment: "
                "dump it again, or ask for that (--live)"
            )


def _vcpu_state(read: VcpuRegisters) -> VcpuState:
    vectors = {
        register_ids.v(number): read.values[RegisterId(name)] & _V_MASK
        for number, name in enumerate(_Z_REGISTERS)
        if name in read.values
    }
    power = PowerState.OFF if read.mp_state == _STOPPED else PowerState.ON
    return VcpuState({**read.values, **vectors}, power)


def _among_zeros(rows: NDArray[np.uint8], is_used: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return the rows with rows of zeros for what is not used, as one array of bytes."""
    if len(rows) == len(is_used):
        return rows.reshape(-1)
    out = np.zeros((len(is_used), rows.shape[1]), np.uint8)
    out[is_used] = rows
    return out.reshape(-1)
