"""The registers of vCPUs in a stream, by KVM's ONE_REG ids.

QEMU keeps system registers in a list of (id, value), also where KVM had no part in it: its ids are
KVM's. The others are fields of their own. Source: QEMU target/arm/machine.c (vmstate_arm_cpu),
target/arm/kvm-consts.h.
"""

from typing import Final

from tagalong.core.source import Source
from tagalong.errors import CoreError
from tagalong.machine import PowerState, RegisterId, VcpuState, register_ids
from tagalong.machine.register_ids import GENERAL_REGISTERS, VECTOR_REGISTERS
from tagalong.qemu.cursor import Cursor
from tagalong.qemu.stream import SavedDevice, SavedStream

MAX_VCPUS: Final = 512

_POWER_OFF: Final = 1
_AARCH32: Final = 1 << 4  # PSTATE.nRW
_AARCH32_PC: Final = 15
_SPSEL: Final = 1
_EL_SHIFT, _EL_MASK = 2, 3

_SYSREG_IDS: Final = range(
    register_ids.sysreg(0, 0, 0, 0, 0), register_ids.sysreg(3, 7, 15, 15, 7) + 1
)
_MAX_SYSREGS: Final = 2048

# FPSCR is FPSR and FPCR in one word.
_FPSR_BITS: Final = 0xF800_009F
_FPCR_BITS: Final = 0x07FF_9F00


def vcpus_of(stream: SavedStream, source: Source, what: str) -> tuple[VcpuState, ...]:
    """Return the state of all vCPUs in order. `what` names the file in errors.

    Raises CoreError if the stream has none, MalformedCoreError if one lacks a register that each
    has.
    """
    found: list[VcpuState] = []
    while (device := stream.devices.get(("cpu", len(found)))) is not None:
        if len(found) == MAX_VCPUS:
            raise CoreError(f"{what}: more than {MAX_VCPUS:#x} vCPUs are not possible")
        found.append(_SavedVcpu(device, source, what).state())
    if not found:
        raise CoreError(f"{what}: no vCPUs of an Arm machine are in it")
    return tuple(found)


class _SavedVcpu:
    def __init__(self, device: SavedDevice, source: Source, what: str) -> None:
        self._fields = device.fields
        self._cursor = Cursor(source, what)
        self._name = f"vCPU {device.instance}"

    def state(self) -> VcpuState:
        pstate = self._number("cpsr")
        registers = self._system_registers()
        registers |= self._general(pstate) | self._banked(pstate) | self._floating()
        is_off = self._number("power_state") == _POWER_OFF
        return VcpuState(registers, PowerState.OFF if is_off else PowerState.ON)

    def _general(self, pstate: int) -> dict[RegisterId, int]:
        if pstate & _AARCH32:  # R0 to R14 of user mode are X0 to X14 (Arm ARM, D1.20.1)
            narrow = self._numbers("env.regs")
            found = {register_ids.x(n): value for n, value in enumerate(narrow[:_AARCH32_PC])}
            return found | {
                register_ids.PC: narrow[_AARCH32_PC], register_ids.PSTATE: pstate,
            }  # fmt: skip
        wide = self._numbers("env.xregs")
        found = {register_ids.x(n): value for n, value in enumerate(wide[:GENERAL_REGISTERS])}
        return found | {register_ids.PC: self._number("env.pc"), register_ids.PSTATE: pstate}

    def _banked(self, pstate: int) -> dict[RegisterId, int]:
        """Return stack pointers and what exceptions saved; X31 is the stack pointer in use."""
        stacks = self._numbers("env.sp_el")
        if not pstate & _AARCH32:
            level = pstate >> _EL_SHIFT & _EL_MASK if pstate & _SPSEL else 0
            stacks[level] = self._numbers("env.xregs")[GENERAL_REGISTERS]
        return {
            register_ids.SP_EL0: stacks[0],
            register_ids.SP_EL1: stacks[1],
            register_ids.SP_EL2: stacks[2],
            register_ids.ELR_EL1: self._numbers("env.elr_el")[1],
            register_ids.SPSR_EL1: self._numbers("env.banked_spsr")[1],
        }

    def _floating(self) -> dict[RegisterId, int]:
        """Return V0 to V31, FPSR and FPCR; nothing of a vCPU without them."""
        if "env.vfp.zregs[0].d" not in self._fields:
            return {}
        found = {}
        for number in range(VECTOR_REGISTERS):
            low, high = self._numbers(f"env.vfp.zregs[{number}].d", 2)
            found[register_ids.v(number)] = high << 64 | low
        combined = self._number("fpscr")
        status, control = combined & _FPSR_BITS, combined & _FPCR_BITS
        for name in self._fields:
            # With registers that FPSCR has no room for they are written apart, and FPSCR is 0.
            status |= self._number(name) if name.endswith("fpsr") else 0
            control |= self._number(name) if name.endswith("fpcr") else 0
        return found | {register_ids.FPSR: status, register_ids.FPCR: control}

    def _system_registers(self) -> dict[RegisterId, int]:
        names = self._numbers("cpreg_vmstate_indexes", most=_MAX_SYSREGS)
        values = self._numbers("cpreg_vmstate_values", len(names), most=_MAX_SYSREGS)
        return {
            RegisterId(name): value
            for name, value in zip(names, values, strict=True)
            if name in _SYSREG_IDS
        }

    def _number(self, name: str) -> int:
        return self._numbers(name, 1)[0]

    def _numbers(self, name: str, at_least: int = 1, *, most: int = 64) -> list[int]:
        """Return the elements of a field. Raises MalformedCoreError."""
        field = self._fields.get(name)
        if field is None or not at_least <= field.count <= most or field.size_bytes > 8:
            self._cursor.fail(
                f"{self._name} has no {name}, or not as an Arm machine has it",
                at=0 if field is None else field.at,
            )
        self._cursor.at = field.at
        return [self._cursor.number(field.size_bytes) for _ in range(field.count)]
