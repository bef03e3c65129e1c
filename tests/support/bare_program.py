"""A few instructions that run to the machine's power-off, on any machine.

The program ends with SYSTEM_OFF. An exception ends it as well: the handler leaves ESR_EL1
in x20 and FAR_EL1 in x21. x19 is 1 if the program came to its own end. x0 to x3 are lost:
they hold what the power-off call returned.
"""

from collections.abc import Callable, Sequence

from tagalong.machine import Machine, RunState, register_ids
from tagalong.mte.registers import TagCheckMode
from tests.support import a64, bare

ESR_EL1 = (3, 0, 5, 2, 0)
FAR_EL1 = (3, 0, 6, 0, 0)
RAM_BYTES = 4 << 20

_SYSTEM_OFF = 0x8400_0008
_OFF = [*a64.mov_value(0, _SYSTEM_OFF), a64.hvc(), a64.b(0)]
_HANDLER = [a64.mrs(20, ESR_EL1), a64.mrs(21, FAR_EL1), *_OFF]


class BareProgram:
    """`words` in a machine of `make`, with these values in x registers."""

    def __init__(
        self,
        make: Callable[..., Machine],
        words: Sequence[int],
        x: dict[int, int] | None = None,
        *,
        mode: TagCheckMode = TagCheckMode.SYNC,
        ram_bytes: int = RAM_BYTES,
    ) -> None:
        self.output = bytearray()
        self.machine = make(ram_bytes=ram_bytes, console=self.output.extend)
        self._length = 4 * len(words)
        bare.prepare(self.machine, [*words, a64.movz(19, 1), *_OFF], mode, _HANDLER)
        bare.set_x(self.machine, {19: 0, **(x or {})})

    def run(self, seconds: float = 30) -> "BareProgram":
        """Run to the power-off."""
        self.machine.resume()
        state = self.machine.wait(seconds)
        if state is RunState.RUNNING:
            self.machine.pause()
        assert state is RunState.SHUTDOWN, f"{state} at {self.pc:#x}: {self.machine.failure}"
        return self

    def run_to_loop(self, seconds: float = 30, *, at: int | None = None) -> "BareProgram":
        """Run to a branch to itself, instruction number `at` or the last one; pause there."""
        loop = bare.CODE + (self._length - 4 if at is None else 4 * at)
        for _ in range(int(seconds * 50)):
            self.machine.resume()
            self.machine.wait(0.02)
            self.machine.pause()
            if self.machine.run_state is not RunState.PAUSED or self.pc == loop:
                break
        assert self.pc == loop, f"{self.machine.run_state} at {self.pc:#x}"
        return self

    def leave_loop(self) -> None:
        """Set the pc behind the loop that the program is in."""
        self.machine.vcpus[0].set_register(register_ids.PC, bare.CODE + self._length)

    @property
    def pc(self) -> int:
        return bare.get(self.machine, register_ids.PC)

    @property
    def has_ended(self) -> bool:
        """Return whether it came to its own end, and not to an exception."""
        return self.x(19) == 1

    def x(self, number: int) -> int:
        return bare.get_x(self.machine, number)

    @property
    def esr(self) -> int:
        return self.x(20)

    @property
    def far(self) -> int:
        return self.x(21)


Maker = Callable[..., BareProgram]
"""Makes a machine with a few instructions in it: (words, x registers, options)."""
