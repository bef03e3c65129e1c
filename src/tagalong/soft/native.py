"""The interpreter's C functions as one object; nothing else here calls them."""

import ctypes
from enum import IntEnum
from functools import cache

from tagalong._native import Exit, library
from tagalong.errors import HostError, UsageError
from tagalong.machine import RegisterId
from tagalong.memory import PageBitmap, Region

_MAX_VCPUS = 512


class ExitReason(IntEnum):
    """`enum ta_exit_reason`: why the interpreter came back."""

    BUDGET = 1
    INTERRUPTED = 2
    MMIO = 3
    HVC = 4
    IDLE = 5
    UNSUPPORTED = 6


@cache
def register_ids() -> tuple[RegisterId, ...]:
    """Return the ids of every register that makes up a vCPU's state."""
    count = library().ta_vcpu_register_ids(None, 0)
    ids = (ctypes.c_uint64 * count)()
    library().ta_vcpu_register_ids(ids, count)
    return tuple(RegisterId(i) for i in ids)


class NativeMachine:
    """Owns one `struct ta_machine`. Only interrupt() may be called while run() runs."""

    def __init__(self, vcpu_count: int, seed: int) -> None:
        if not 1 <= vcpu_count <= _MAX_VCPUS:
            raise UsageError(f"{vcpu_count} vCPUs: the embedded machine takes 1 to {_MAX_VCPUS}")
        self._library = library()
        self._handle = self._library.ta_machine_new(vcpu_count, seed & (1 << 64) - 1)
        if not self._handle:
            raise HostError(f"no memory for {vcpu_count} vCPUs")

    def close(self) -> None:
        """Free the machine; nothing else may be called after."""
        self._library.ta_machine_free(self._handle)
        self._handle = None

    def add_ram(self, region: Region) -> None:
        """Map a region; its planes must stay mapped until close()."""
        arguments = (
            region.gpa,
            region.size_bytes,
            region.data.ctypes.data,
            region.tags.ctypes.data,
        )
        if self._library.ta_machine_add_ram(self._handle, *arguments):
            raise UsageError(
                f"RAM {region.gpa:#x}+{region.size_bytes:#x} is misaligned or overlaps"
            )

    def add_mmio(self, gpa: int, size_bytes: int) -> None:
        """Make accesses to this range leave the interpreter."""
        if self._library.ta_machine_add_mmio(self._handle, gpa, size_bytes):
            raise UsageError(f"MMIO window {gpa:#x}+{size_bytes:#x} overlaps RAM")

    def share_tags(self) -> None:
        """Let another machine, in another thread, store to the same tag planes."""
        self._library.ta_machine_share_tags(self._handle, 1)

    def set_dirty_log(self, region: int, bitmap: PageBitmap | None) -> None:
        """Mark the region's changed pages in `bitmap` from now on; call after clearing it."""
        pointer = None if bitmap is None else bitmap.words.ctypes.data
        self._library.ta_machine_set_dirty_log(self._handle, region, pointer)

    def run(self, budget: int, leave: Exit) -> None:
        """Run all vCPUs in turn until `leave` says why they stopped. Releases the GIL."""
        self._library.ta_machine_run(self._handle, budget, ctypes.byref(leave))

    def step(self, vcpu: int, count: int, leave: Exit) -> None:
        """Run one vCPU alone for at most `count` instructions."""
        self._library.ta_vcpu_step(self._handle, vcpu, count, ctypes.byref(leave))

    def interrupt(self) -> None:
        """Make the running run(), or else the next, return soon."""
        self._library.ta_machine_interrupt(self._handle)

    def complete_mmio(self, vcpu: int, data: int) -> None:
        """Answer an MMIO exit; the instruction is carried out."""
        self._library.ta_machine_complete_mmio(self._handle, vcpu, data)

    def abort_mmio(self, vcpu: int) -> None:
        """Answer an MMIO exit with an external abort to the guest."""
        self._library.ta_vcpu_abort_mmio(self._handle, vcpu)

    def set_power(self, vcpu: int, *, on: bool) -> None:
        """Let the vCPU take part in turns, or not."""
        self._library.ta_vcpu_set_power(self._handle, vcpu, int(on))

    def get_register(self, vcpu: int, register: RegisterId) -> int | None:
        """Return a register's value, or None if there is no such register."""
        value = ctypes.c_uint64()
        failed = self._library.ta_vcpu_get(self._handle, vcpu, register, ctypes.byref(value))
        return None if failed else value.value

    def set_register(self, vcpu: int, register: RegisterId, value: int) -> bool:
        """Write a register; False if the vCPU does not take this id or value."""
        if not 0 <= value < 1 << 64:
            return False
        return not self._library.ta_vcpu_set(self._handle, vcpu, register, value)

    def instructions(self, vcpu: int) -> int:
        """Return how many instructions the vCPU has executed."""
        return int(self._library.ta_vcpu_instructions(self._handle, vcpu))

    def save_snapshot(self, vcpu: int) -> bytes:
        """Return all that a vCPU is; equal bytes mean equal behaviour. Only for load_snapshot."""
        snapshot = ctypes.create_string_buffer(self._library.ta_vcpu_snapshot_bytes())
        self._library.ta_vcpu_save_snapshot(self._handle, vcpu, snapshot)
        return snapshot.raw

    def load_snapshot(self, vcpu: int, snapshot: bytes) -> None:
        """Bring a vCPU back to where it was when save_snapshot returned `snapshot`."""
        self._library.ta_vcpu_load_snapshot(self._handle, vcpu, snapshot)
