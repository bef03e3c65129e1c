"""The two CPUs of a race and all of their memory, small enough to be copied at each step.

vCPU 0 is the guest at EL1, vCPU 1 the VMM's process at EL0 (tagalong.soft.host.process). They
share one page of guest RAM; code, stack and tables are each side's own. An instruction is the
unit: the other side does nothing within one.
"""

from typing import Final, NamedTuple

import numpy as np
import xxhash
from numpy.typing import NDArray

from tagalong._native import InterpreterExit
from tagalong.access.host import Fault
from tagalong.access.routines import load_blob
from tagalong.disassembly import disassemble
from tagalong.errors import MachineError
from tagalong.machine import RegisterId, register_ids
from tagalong.memory import Gpa, Region
from tagalong.mte import GRANULE_BYTES
from tagalong.mte import tags as tag_plane
from tagalong.mte.registers import Sctlr, TagCheckMode
from tagalong.soft.host.process import CODE_VA, RETURN_VA, SCRATCH_VA, Process
from tagalong.soft.host.stage1 import PAGE_BYTES, Kind, Stage1
from tagalong.soft.host.thread import async_fault, fault_of
from tagalong.soft.native import NativeMachine, StopReason
from tagalong.soft.unsupported import unsupported
from tagalong.studies.race.code import (
    FIRST_TAG,
    LOOK_BYTES,
    RACED_GPA,
    GuestCode,
    Side,
    VmmCode,
    granule_of,
    guest_registers,
)
from tagalong.studies.race.locality import is_local

OWN_CODE_VA: Final = CODE_VA + 8 * PAGE_BYTES
"""Where a VMM's own words are; the access routines are at CODE_VA."""

_GUEST: Final = 0
_VMM: Final = 1
_VCPU: Final = {Side.GUEST: _GUEST, Side.VMM: _VMM}

_GUEST_PRIVATE_GPA: Final = Gpa(RACED_GPA + (1 << 21))
_TABLES_BYTES: Final = 16 * PAGE_BYTES
_VECTORS_AT: Final = _TABLES_BYTES
_CODE_AT: Final = _VECTORS_AT + PAGE_BYTES
_STACK_AT: Final = _CODE_AT + PAGE_BYTES
_PRIVATE_BYTES: Final = _STACK_AT + PAGE_BYTES
_GUEST_CODE: Final = _GUEST_PRIVATE_GPA + _CODE_AT
_GUEST_VECTORS: Final = _GUEST_PRIVATE_GPA + _VECTORS_AT

_GUEST_SCTLR: Final = 0x30D0_1805 & ~(1 << 3)
_GUEST_PSTATE: Final = 0x3C5
_GCR: Final = 0x10001  # IRG chooses freely, but never tag 0

# Whatever an address in these ranges leads to, the other side cannot access it.
_GUEST_PRIVATE: Final = range(_GUEST_PRIVATE_GPA - (1 << 20), _GUEST_PRIVATE_GPA + (1 << 30))
_VMM_PRIVATE: Final = range(0x7000_0000_0000 - (1 << 20), 0x7001_0000_0000)


class Granule(NamedTuple):
    """What a granule holds at one moment: its tag and its 16 bytes."""

    tag: int
    data: bytes


Content = tuple[Granule, ...]
"""The granules that a look reads, from RACED_GPA on."""


class Saved(NamedTuple):
    """The whole state between two instructions."""

    guest: bytes
    vmm: bytes
    memory: tuple[bytes, ...]
    """A digest per plane of memory; the world stores the bytes, once per distinct content."""
    call: int
    """The VMM's call that comes next or is under way."""
    steps: tuple[int, int]

    def digest(self) -> bytes:
        """Return 16 bytes that are equal for equal states."""
        parts = self.guest, self.vmm, *self.memory, repr((self.call, self.steps)).encode()
        return xxhash.xxh3_128_digest(b"".join(parts))


class World:
    """A guest's and a VMM's code, both before their first instruction.

    Raises HostError if the host lacks the memory. Close it after use.
    """

    def __init__(self, guest: GuestCode, vmm: VmmCode) -> None:
        self.guest_code = guest
        self.vmm_code = vmm
        self._native = NativeMachine(2, 0)
        self._native.set_power(_VMM, on=True)
        self._raced = Region.create(RACED_GPA, PAGE_BYTES, name="raced")
        self._private = Region.create(_GUEST_PRIVATE_GPA, _PRIVATE_BYTES, name="guest")
        self._native.add_ram(self._raced)
        self._native.add_ram(self._private)
        code = load_blob().code.ljust(OWN_CODE_VA - CODE_VA, b"\0") + _bytes(vmm.words)
        self._process = Process(self._native, _VMM, [self._raced], code, PAGE_BYTES)
        self._process.scratch[: len(vmm.scratch)] = memoryview(vmm.scratch)
        self._planes = (
            self._raced.raw_data,
            self._raced.raw_tags,
            self._private.raw_data[_STACK_AT:],
            self._process.stack,
            self._process.scratch,
        )
        self._set_up_guest()
        self._contents: dict[bytes, bytes] = {}
        self._steps = {Side.GUEST: 0, Side.VMM: 0}
        self._call = 0
        self._enter_call()

    def close(self) -> None:
        """Release both CPUs and their memory."""
        self._native.close()
        self._process.close()
        self._private.close()
        self._raced.close()

    # --- one instruction ---

    def step(self, side: Side) -> Fault | None:
        """Execute one instruction of a side that is not done; return the VMM's tag check fault.

        An asynchronous fault is found at the end of a call and counts as the fault of the call's
        last instruction. Raises UnsupportedInstructionError, and MachineError for any other
        exception of the VMM's code.
        """
        self._steps[side] += 1
        if side is Side.VMM:
            return self._step_vmm()
        leave = InterpreterExit()
        self._native.step(_GUEST, 1, leave)
        if leave.reason == StopReason.UNSUPPORTED:
            raise unsupported(leave)
        return None

    def is_done(self, side: Side) -> bool:
        """Return whether a side is at its end; a guest that faulted is."""
        if side is Side.VMM:
            return self._call == len(self.vmm_code.calls)
        pc = self._get(_GUEST, register_ids.PC)
        end = _GUEST_CODE + 4 * len(self.guest_code.words)
        return pc == end or _GUEST_VECTORS <= pc < _GUEST_VECTORS + PAGE_BYTES

    def is_local(self, side: Side) -> bool:
        """Return whether the side's next instruction certainly touches only that side's state."""
        private = _VMM_PRIVATE if side is Side.VMM else _GUEST_PRIVATE
        return is_local(self._word(side), lambda number: self._base(side, number), private)

    def next_instruction(self, side: Side) -> tuple[int, int, str]:
        """Return pc, word and text of the side's next instruction."""
        pc, word = self._get(_VCPU[side], register_ids.PC), self._word(side)
        return pc, word, disassemble(word, pc)

    def what(self, side: Side) -> str:
        """Return the name of the guest's code, or of the VMM's present call."""
        if side is Side.GUEST:
            return self.guest_code.name
        return self.vmm_code.calls[self._call].what

    # --- the whole state ---

    def save(self) -> Saved:
        """Return the state, for restore()."""
        return Saved(
            self._native.save_snapshot(_GUEST),
            self._native.save_snapshot(_VMM),
            tuple(self._keep(plane) for plane in self._planes),
            self._call,
            (self._steps[Side.GUEST], self._steps[Side.VMM]),
        )

    def restore(self, saved: Saved) -> None:
        """Return to a state that save() of this world returned."""
        self._native.load_snapshot(_GUEST, saved.guest)
        self._native.load_snapshot(_VMM, saved.vmm)
        for plane, digest in zip(self._planes, saved.memory, strict=True):
            plane[:] = memoryview(self._contents[digest])
        self._call = saved.call
        self._steps = {Side.GUEST: saved.steps[0], Side.VMM: saved.steps[1]}

    # --- what a look reads, and what the VMM has read ---

    def content(self) -> Content:
        """Return what the granules hold at present."""
        data = self._raced.raw_data[:LOOK_BYTES].tobytes()
        packed = self._raced.raw_tags[: LOOK_BYTES // 32]
        return tuple(
            Granule(tag_plane.get_tag(packed, at // GRANULE_BYTES), data[at : at + GRANULE_BYTES])
            for at in range(0, LOOK_BYTES, GRANULE_BYTES)
        )

    def scratch(self) -> bytes:
        """Return the VMM's scratch memory."""
        return self._process.scratch.tobytes()

    def vmm_x(self, number: int) -> int:
        """Return x0 to x30 of the VMM."""
        return self._process.x(number)

    # --- small help ---

    def _keep(self, plane: NDArray[np.uint8]) -> bytes:
        digest = xxhash.xxh3_128_digest(plane.data)
        if digest not in self._contents:
            self._contents[digest] = plane.tobytes()
        return digest

    def _step_vmm(self) -> Fault | None:
        if self._process.step():
            return self._tag_check_fault()
        call = self.vmm_code.calls[self._call]
        if self._process.pc != (RETURN_VA if call.end_va is None else call.end_va):
            return None
        if self._process.take_async_fault():
            return async_fault(self._process, self._process.trap())
        self._call += 1
        if not self.is_done(Side.VMM):
            self._enter_call()
        return None

    def _tag_check_fault(self) -> Fault:
        trap = self._process.trap()
        fault = fault_of(self._process, trap)
        if not fault.is_tag_check:
            raise MachineError(
                f"the VMM's code at pc {trap.pc:#x} took {fault}, ESR {trap.esr:#x}; a look may "
                "take tag check faults only"
            )
        return fault

    def _enter_call(self) -> None:
        call = self.vmm_code.calls[self._call]
        self._process.set_tag_check_mode(call.mode)
        self._process.enter(call.va, call.arguments)

    def _set_up_guest(self) -> None:
        private = self._private.raw_data
        private[_CODE_AT : _CODE_AT + 4 * len(self.guest_code.words)] = memoryview(
            _bytes(self.guest_code.words)
        )
        self._raced.raw_data[:LOOK_BYTES] = memoryview(
            granule_of(1) * (LOOK_BYTES // GRANULE_BYTES)
        )
        tag_plane.fill(self._raced.raw_tags, 0, LOOK_BYTES // GRANULE_BYTES, FIRST_TAG)
        stage1 = Stage1(private[:_TABLES_BYTES], _GUEST_PRIVATE_GPA)
        for region in (self._raced, self._private):
            stage1.map(region.gpa, region.gpa, region.size_bytes, Kind.EL1_TAGGED)
        checking = Sctlr(other_bits=_GUEST_SCTLR, ata=True, tcf=TagCheckMode.SYNC)
        registers = {
            **stage1.registers(),
            register_ids.VBAR_EL1: _GUEST_VECTORS,
            register_ids.GCR_EL1: _GCR,
            register_ids.SCTLR_EL1: checking.to_bits(),
            register_ids.SP_EL1: _GUEST_PRIVATE_GPA + _PRIVATE_BYTES,
            register_ids.PSTATE: _GUEST_PSTATE,
            register_ids.PC: _GUEST_CODE,
            **{register_ids.x(number): value for number, value in guest_registers().items()},
        }
        for register, value in registers.items():
            self._native.set_register(_GUEST, register, value)

    def _word(self, side: Side) -> int:
        pc = self._get(_VCPU[side], register_ids.PC)
        if side is Side.VMM:
            return self._process.word(pc)
        offset = pc - _GUEST_PRIVATE_GPA
        return int.from_bytes(self._private.raw_data[offset : offset + 4].tobytes(), "little")

    def _base(self, side: Side, number: int) -> int:
        if number < 31:
            return self._get(_VCPU[side], register_ids.x(number))
        stack = register_ids.SP_EL0 if side is Side.VMM else register_ids.SP_EL1
        return self._get(_VCPU[side], stack)

    def _get(self, vcpu: int, register: RegisterId) -> int:
        return self._native.get_register(vcpu, register) or 0


def _bytes(words: tuple[int, ...]) -> bytes:
    return b"".join(word.to_bytes(4, "little") for word in words)


def scratch_address(offset: int) -> int:
    """Return the VMM's address of byte `offset` of its scratch memory."""
    return SCRATCH_VA + offset
