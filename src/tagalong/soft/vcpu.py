"""One vCPU of the embedded machine: its registers, and single steps."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

from tagalong._native import InterpreterExit
from tagalong.errors import StateError
from tagalong.machine import PowerState, RegisterId, VcpuState, register_ids
from tagalong.machine.cpu_match import (
    CpuPolicy,
    accept_differences,
    differing_identification,
    is_identification,
    match_registers,
    objections,
    wanted_registers,
)
from tagalong.machine.register_ids import register_name
from tagalong.soft.native import NativeMachine, StopReason, state_register_ids


class SoftVcpu:
    """Implements the Vcpu Protocol; `paused` guards every use of the interpreter's state."""

    def __init__(
        self,
        index: int,
        native: NativeMachine,
        paused: Callable[[], AbstractContextManager[None]],
        handle_exit: Callable[[InterpreterExit], None],
        policy: CpuPolicy,
    ) -> None:
        self._index = index
        self._native = native
        self._paused = paused
        self._handle_exit = handle_exit
        self._policy = policy
        self.power = PowerState.ON if index == 0 else PowerState.OFF
        self._reset_state = VcpuState(self._registers(), PowerState.OFF)

    @property
    def index(self) -> int:
        """Return the vCPU's number."""
        return self._index

    def get_register(self, register: RegisterId) -> int:
        """Return one register. Raises StateError, RunStateError."""
        with self._paused():
            value = self._native.get_register(self._index, register)
        if value is None:
            raise StateError(f"vCPU {self._index} has no {register_name(register)}")
        return value

    def set_register(self, register: RegisterId, value: int) -> None:
        """Write one register. Raises StateError, RunStateError; unchanged then."""
        with self._paused():
            if not self._native.set_register(self._index, register, value):
                raise StateError(
                    f"vCPU {self._index} rejects {register_name(register)} = {value:#x}"
                )

    def save(self) -> VcpuState:
        """Return the whole state. Raises RunStateError while the machine runs."""
        with self._paused():
            return self.peek()

    def load(self, state: VcpuState) -> None:
        """Load a whole state. Raises StateError naming what was rejected; unchanged then."""
        with self._paused():
            before = self.peek()
            if not self.take(state):
                self.put_back(before)
                raise StateError(self.objection(state))
            self.report_accepted(state)

    def step(self, count: int) -> StopReason:
        """Execute at most `count` instructions of this vCPU alone, devices included.

        Returns BUDGET when all were executed, IDLE if the vCPU is off, UNSUPPORTED before an
        instruction that is not implemented. Raises RunStateError while the machine runs.
        """
        leave = InterpreterExit()
        with self._paused():
            target = self.instructions + count
            while (left := target - self.instructions) > 0:
                self._native.step(self._index, left, leave)
                reason = StopReason(leave.reason)
                if reason not in (StopReason.MMIO, StopReason.HVC):
                    return reason
                self._handle_exit(leave)
        return StopReason.BUDGET

    @property
    def instructions(self) -> int:
        """Return how many instructions this vCPU has executed."""
        return self._native.instructions(self._index)

    @property
    def _who(self) -> str:
        return f"vCPU {self._index}"

    # What the machine itself uses, between instructions and without the guard.

    def peek(self) -> VcpuState:
        """Return the whole state."""
        return VcpuState(self._registers(), self.power)

    def take(self, state: VcpuState) -> bool:
        """Load a state if there is no objection to it; return whether there was none.

        If there was, a part of it may have been loaded: `put_back` undoes that.
        """
        try:
            self._accept(state, self._policy.quietly())
            registers = self._match(state)
        except StateError:
            return False
        if self._index and register_ids.TIMER_COUNT in registers:
            # One counter for all. States of earlier versions had one for each vCPU: the latest
            # counts, so that time runs backwards for none of them.
            registers[register_ids.TIMER_COUNT] = max(
                registers[register_ids.TIMER_COUNT], self._native.counter()
            )
        if register_ids.PTIMER_COUNT not in state.registers:  # earlier versions had one count
            registers[register_ids.PTIMER_COUNT] = registers[register_ids.TIMER_COUNT]
        if self._write(registers):
            return False
        self._write(self._other_identity(state))
        self.set_power(state.power)
        return True

    def put_back(self, state: VcpuState) -> None:
        """Become what the vCPU was when `peek` returned `state`."""
        self._write(state.registers)
        self.set_power(state.power)

    def report_accepted(self, state: VcpuState) -> None:
        """Report what the policy accepted in a state that was taken."""
        self._accept(state, self._policy)

    def objection(self, state: VcpuState) -> str:
        """Return, with all names, why load() would reject `state`, "" if it would not."""
        return objections(
            (
                lambda: self._match(state),
                lambda: self._accept(state, self._policy.quietly()),
                lambda: self._try(state),
            )
        )

    def x(self, number: int) -> int:
        """Return x0..x30 for a hypervisor call."""
        return self._native.get_register(self._index, register_ids.x(number)) or 0

    def set_x(self, number: int, value: int) -> None:
        """Write x0..x30, truncated to 64 bits."""
        self._native.set_register(self._index, register_ids.x(number), value & (1 << 64) - 1)

    def set_power(self, power: PowerState) -> None:
        """Switch the vCPU on or off."""
        self.power = power
        self._native.set_power(self._index, on=power is PowerState.ON)

    def wait_for_interrupt(self) -> None:
        """Wait as if the vCPU had executed WFI."""
        self._native.wait_for_interrupt(self._index)

    def reset_to(self, changes: Mapping[RegisterId, int]) -> None:
        """Reset the vCPU, except for `changes`, its identity and the counter of all vCPUs."""
        reset = self._reset_state.registers
        own = {r: v for r, v in reset.items() if not is_identification(r)}
        for count in (register_ids.TIMER_COUNT, register_ids.PTIMER_COUNT):
            own.pop(count)
        self._write({**own, **changes})
        self._native.reset_gic_interface(self._index)

    def _registers(self) -> dict[RegisterId, int]:
        return self._native.get_registers(self._index, state_register_ids())

    def _match(self, state: VcpuState) -> dict[RegisterId, int]:
        return match_registers(state.registers, self._reset_state.registers, who=self._who)

    def _accept(self, state: VcpuState, policy: CpuPolicy) -> None:
        given, own = state.registers, self._reset_state.registers
        possible = self._other_identity(state)
        differing = [r for r in differing_identification(given, own) if r not in possible]
        accept_differences(differing, given, own, policy, who=self._who)

    def _other_identity(self, state: VcpuState) -> dict[RegisterId, int]:
        """Return the identification that differs from this CPU's and that it can have as well.

        A guest that was made by an earlier version goes on seeing what it saw.
        """
        given, possible = state.registers, {}
        for register in differing_identification(given, self._reset_state.registers):
            before = self._native.get_register(self._index, register)
            if register not in given or before is None:
                continue
            if self._native.set_register(self._index, register, given[register]):
                possible[register] = given[register]
                self._native.set_register(self._index, register, before)
        return possible

    def _try(self, state: VcpuState) -> None:
        # Only the interpreter knows which values a register accepts: write them, then undo it.
        before = self._registers()
        refused = self._write(wanted_registers(state.registers, self._reset_state.registers))
        self._write(before)
        if refused:
            raise StateError(f"{self._who} rejects {', '.join(refused)}")

    def _write(self, registers: Mapping[RegisterId, int]) -> list[str]:
        refused = self._native.set_registers(self._index, registers)
        return [f"{register_name(each)} = {registers[each]:#x}" for each in refused]
