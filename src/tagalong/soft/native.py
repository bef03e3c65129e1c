"""The interpreter's C functions as one object; nothing else here calls them."""

import ctypes
import errno
from collections.abc import Mapping, Sequence
from enum import IntEnum
from functools import cache
from typing import Final

from tagalong._native import InterpreterExit, library
from tagalong.errors import HostError, UsageError
from tagalong.machine import GicDescription, RegisterId
from tagalong.machine.register_ids import register_bytes
from tagalong.memory import PageBitmap, Region

_MAX_VCPUS: Final = 512
_LOW_HALF: Final = (1 << 64) - 1
NO_DEADLINE: Final = (1 << 64) - 1
"""An exit's `idle_ticks` if no timer runs: nothing happens before an interrupt."""
COUNTER_HZ: Final = 62_500_000
"""CNTFRQ_EL0: ticks of the counter in a second of the guest's time."""


class StopReason(IntEnum):
    """`enum ta_exit_reason`: why the interpreter came back."""

    BUDGET = 1
    INTERRUPTED = 2
    MMIO = 3
    HVC = 4
    IDLE = 5
    UNSUPPORTED = 6
    ALARM = 7


class InterruptLine(IntEnum):
    """`enum ta_interrupt`: the interrupt inputs of a vCPU."""

    IRQ = 0
    FIQ = 1


class GicPart(IntEnum):
    """`enum ta_gic_part`: what a register of the GIC belongs to."""

    DISTRIBUTOR = 0
    REDISTRIBUTOR = 1
    INTERFACE = 2
    SPI_LEVELS = 3
    PPI_LEVELS = 4


@cache
def state_register_ids() -> tuple[RegisterId, ...]:
    """Return the ids of every register that makes up a vCPU's state."""
    count = library().ta_vcpu_register_ids(None, 0)
    ids = (ctypes.c_uint64 * count)()
    library().ta_vcpu_register_ids(ids, count)
    return tuple(RegisterId(i) for i in ids)


class NativeMachine:
    """Owns one `struct ta_machine`.

    While run() runs in one thread, others may call interrupt(), set_interrupt() and set_line()
    only.
    """

    def __init__(self, vcpu_count: int, seed: int) -> None:
        if not 1 <= vcpu_count <= _MAX_VCPUS:
            raise UsageError(
                f"cannot make {vcpu_count} vCPUs: the embedded machine has 1 to {_MAX_VCPUS}"
            )
        self._library = library()
        self._handle = self._library.ta_machine_new(vcpu_count, seed & (1 << 64) - 1)
        self._next_access = InterpreterExit()
        if not self._handle:
            raise HostError(f"cannot make {vcpu_count} vCPUs: the host has no memory for them")

    def close(self) -> None:
        """Free the machine; nothing else may be called after."""
        self._library.ta_machine_free(self._handle)
        self._handle = None

    def add_ram(self, region: Region) -> None:
        """Map a region; its planes must stay mapped until close().

        Raises UsageError if it is misaligned or overlaps another, HostError without memory.
        """
        arguments = (
            region.gpa,
            region.size_bytes,
            region.data.ctypes.data,
            region.tags.ctypes.data,
        )
        added = self._library.ta_machine_add_ram(self._handle, *arguments)
        self._require_added(added, f"RAM {region.gpa:#x}+{region.size_bytes:#x}")

    def add_mmio(self, gpa: int, size_bytes: int) -> int:
        """Make accesses to this range leave the interpreter; return the window's number.

        Windows are numbered from 0 in the order of their adding; an MMIO exit has the number in
        `mmio_window`. Raises as add_ram.
        """
        added = int(self._library.ta_machine_add_mmio(self._handle, gpa, size_bytes))
        self._require_added(added, f"MMIO window {gpa:#x}+{size_bytes:#x}")
        return added

    @staticmethod
    def _require_added(result: int, what: str) -> None:
        if result == -errno.ENOMEM:
            raise HostError(f"cannot map {what}: the host has no memory for it")
        if result < 0:
            raise UsageError(f"cannot map {what}: it is misaligned or overlaps another range")

    def share_tags(self) -> None:
        """Allow another machine, in another thread, to store to the same tag planes."""
        self._library.ta_machine_share_tags(self._handle, 1)

    def run_plainly(self) -> None:
        """Leave all to the plain interpreter: slow, with the same results. For tests."""
        self._library.ta_machine_run_plainly(self._handle, 1)

    def set_dirty_log(self, region: int, bitmap: PageBitmap | None) -> None:
        """Mark the region's changed pages in `bitmap` from now on; call after clearing it."""
        pointer = None if bitmap is None else bitmap.words.ctypes.data
        self._library.ta_machine_set_dirty_log(self._handle, region, pointer)

    def run(self, budget: int, leave: InterpreterExit) -> None:
        """Run all vCPUs in turn; `leave` says why they stopped. Releases the GIL."""
        self._library.ta_machine_run(self._handle, budget, ctypes.byref(leave))

    def step(self, vcpu: int, count: int, leave: InterpreterExit) -> None:
        """Run one vCPU alone for at most `count` instructions."""
        self._library.ta_vcpu_step(self._handle, vcpu, count, ctypes.byref(leave))

    def interrupt(self) -> None:
        """Make the running run(), or else the next, return soon."""
        self._library.ta_machine_interrupt(self._handle)

    def set_interrupt(self, vcpu: int, line: InterruptLine, *, level: bool) -> None:
        """Set the level of one interrupt input of a vCPU. From any thread, at any time.

        While it is high and PSTATE does not mask it, the vCPU takes the interrupt before its next
        instruction; masked or not, it ends WFI. A vCPU that runs meanwhile sees it within a few
        thousand instructions. Levels are not part of a vCPU's registers: the device that drives
        the line sets it again after its state was loaded. Raises UsageError if there is no such
        vCPU, or the machine has a GIC, which has these inputs.
        """
        if self._library.ta_vcpu_set_interrupt(self._handle, vcpu, line, int(level)):
            raise UsageError(f"cannot set {line.name} of vCPU {vcpu}: there is no such input")

    def counter(self) -> int:
        """Return the system counter, which all vCPUs share: each instruction is a tick."""
        return int(self._library.ta_machine_counter(self._handle))

    def advance(self, ticks: int) -> None:
        """Add `ticks` of idle time to the counter; an IDLE exit has the most in `idle_ticks`."""
        self._library.ta_machine_advance(self._handle, ticks)

    def set_alarm(self, at: int = NO_DEADLINE) -> None:
        """Make run() return with ALARM, once, when the counter has reached `at`.

        Replaces the alarm before it. Not while run() runs.
        """
        self._library.ta_machine_set_alarm(self._handle, at)

    def follow_host_clock(self, *, follows: bool) -> None:
        """Make the counter follow the host's clock, or the instructions again, from where it is."""
        self._library.ta_machine_follow_host_clock(self._handle, int(follows))

    def add_gic(self, gic: GicDescription) -> None:
        """Give the machine an interrupt controller, once. Raises as add_ram."""
        place = gic.distributor, gic.redistributors, gic.spi_count
        added = self._library.ta_machine_add_gic(self._handle, *place)
        self._require_added(added, f"the GIC at {gic.distributor:#x} and {gic.redistributors:#x}")

    def set_line(self, intid: int, *, level: bool) -> None:
        """Set the level of an SPI's line of the GIC; otherwise as set_interrupt."""
        if self._library.ta_gic_set_line(self._handle, intid, int(level)):
            raise UsageError(f"cannot set the line of interrupt {intid}: there is no such SPI")

    def get_gic(self, part: GicPart, index: int, number: int) -> int:
        """Return a register of the GIC's state (machine/gic.py), of vCPU `index` where it is one's.

        `number`: its offset, its encoding, or which word of levels. Raises UsageError if the GIC
        has no such register.
        """
        value = ctypes.c_uint64()
        if self._library.ta_gic_get(self._handle, part, index, number, ctypes.byref(value)):
            raise UsageError(f"the GIC has no register {number:#x} of {part.name} {index}")
        return value.value

    def set_gic(self, part: GicPart, index: int, number: int, value: int) -> bool:
        """Write such a register; False, and no change, if the GIC rejects this value."""
        return not self._library.ta_gic_set(self._handle, part, index, number, value)

    def reset_gic(self) -> None:
        """Reset the GIC, but for the lines of devices."""
        self._library.ta_gic_reset(self._handle)

    def reset_gic_interface(self, vcpu: int) -> None:
        """Reset the vCPU's interface to the GIC, if the machine has one."""
        self._library.ta_gic_reset_interface(self._handle, vcpu)

    def wait_for_interrupt(self, vcpu: int) -> None:
        """Make the vCPU wait as if it had executed WFI."""
        self._library.ta_vcpu_wait(self._handle, vcpu)

    def complete_mmio(self, vcpu: int, data: int) -> InterpreterExit | None:
        """Answer an MMIO exit with what a read returns; a write ignores `data`.

        Returns None when the instruction has been carried out. One of a pair makes another access
        first: its exit is returned, valid until the next call, and must be answered before anything
        else happens.
        """
        leave = self._next_access
        answer = self._library.ta_machine_complete_mmio
        return leave if answer(self._handle, vcpu, data, ctypes.byref(leave)) else None

    def abort_mmio(self, vcpu: int) -> None:
        """Answer an MMIO exit with an external abort to the guest."""
        self._library.ta_vcpu_abort_mmio(self._handle, vcpu)

    def set_power(self, vcpu: int, *, on: bool) -> None:
        """Switch the vCPU on or off: one that is off gets no turns."""
        self._library.ta_vcpu_set_power(self._handle, vcpu, int(on))

    def get_register(self, vcpu: int, register: RegisterId) -> int | None:
        """Return a register's value, or None if there is no such register.

        The value has as many bits as the register's id says: 32, 64 or 128.
        """
        value = ctypes.create_string_buffer(register_bytes(register))
        failed = self._library.ta_vcpu_get(self._handle, vcpu, register, value, len(value))
        return None if failed else int.from_bytes(value.raw, "little")

    def set_register(self, vcpu: int, register: RegisterId, value: int) -> bool:
        """Write a register; False, and no change, if the vCPU rejects this id or value."""
        size = register_bytes(register)
        if not 0 <= value < 1 << 8 * size:
            return False
        raw = value.to_bytes(size, "little")
        return not self._library.ta_vcpu_set(self._handle, vcpu, register, raw, size)

    def get_registers(self, vcpu: int, registers: Sequence[RegisterId]) -> dict[RegisterId, int]:
        """Return the values of those registers that there are, as get_register would."""
        count = len(registers)
        values, done = (ctypes.c_uint64 * (2 * count))(), (ctypes.c_uint8 * count)()
        ids = (ctypes.c_uint64 * count)(*registers)
        self._library.ta_vcpu_get_each(self._handle, vcpu, ids, count, values, done)
        rows = zip(registers, values[0::2], values[1::2], done, strict=True)
        return {each: low | high << 64 for each, low, high, is_done in rows if is_done}

    def set_registers(self, vcpu: int, registers: Mapping[RegisterId, int]) -> list[RegisterId]:
        """Write registers in order; return those whose id or value the vCPU rejected.

        They have the values that they had.
        """
        fitting = {r: v for r, v in registers.items() if 0 <= v < 1 << 8 * register_bytes(r)}
        count = len(fitting)
        halves = (half for value in fitting.values() for half in (value & _LOW_HALF, value >> 64))
        ids, done = (ctypes.c_uint64 * count)(*fitting), (ctypes.c_uint8 * count)()
        values = (ctypes.c_uint64 * (2 * count))(*halves)
        self._library.ta_vcpu_set_each(self._handle, vcpu, ids, count, values, done)
        taken = {each for each, is_done in zip(fitting, done, strict=True) if is_done}
        return [each for each in registers if each not in taken]

    def instructions(self, vcpu: int) -> int:
        """Return how many instructions the vCPU has executed."""
        return int(self._library.ta_vcpu_instructions(self._handle, vcpu))

    def save_snapshot(self, vcpu: int) -> bytes:
        """Return a vCPU's whole state; equal bytes mean equal behaviour. Only for load_snapshot."""
        snapshot = ctypes.create_string_buffer(self._library.ta_vcpu_snapshot_bytes())
        self._library.ta_vcpu_save_snapshot(self._handle, vcpu, snapshot)
        return snapshot.raw

    def load_snapshot(self, vcpu: int, snapshot: bytes) -> None:
        """Restore a vCPU to what it was when save_snapshot returned `snapshot`."""
        self._library.ta_vcpu_load_snapshot(self._handle, vcpu, snapshot)
