"""The PL011 UART as a guest's console: output at once, no input, no interrupts.

Source: Arm PrimeCell UART (PL011) Technical Reference Manual, DDI 0183G, chapter 3.
"""

import struct
from collections.abc import Callable, Sequence
from typing import ClassVar, Final

from tagalong.devices.device import ANY_WIDTH, Window
from tagalong.devices.irq import IrqLine
from tagalong.errors import StateError, UsageError
from tagalong.machine import DEFAULT_CONSOLE, DeviceDescription
from tagalong.memory import GuestMemory

_BYTES: Final = 0x1000

_UARTDR: Final = 0x000
_UARTFR: Final = 0x018
_FR_RXFE_TXFE: Final = 0x90  # nothing to read, always room to write
_PERIPHERAL_IDS: Final = 0xFE0
_ID_BYTES: Final = bytes((0x11, 0x10, 0x34, 0x00, 0x0D, 0xF0, 0x05, 0xB1))
# Registers that hold what was written: IBRD, FBRD, LCR_H, CR, IFLS, IMSC, DMACR.
_STORED: Final = (0x024, 0x028, 0x02C, 0x030, 0x034, 0x038, 0x048)
_RESET: Final = (0, 0, 0, 0x300, 0x12, 0, 0)
_STATE: Final = struct.Struct("<I7I")
_STATE_VERSION: Final = 1


class Pl011:
    """One UART; `output` is called with each byte that the guest writes.

    Implements the Device Protocol. Raises UsageError for a description that no PL011 has.
    """

    KIND: ClassVar = "pl011"

    def __init__(
        self,
        output: Callable[[bytes], None] | None = None,
        description: DeviceDescription = DEFAULT_CONSOLE,
    ) -> None:
        given = description.size_bytes, description.interrupt, description.config
        if given != (_BYTES, None, b""):
            raise UsageError(
                f"device {description.name!r} has a window of {description.size_bytes:#x} bytes, "
                f"interrupt {description.interrupt} and {len(description.config)} bytes of "
                f"configuration: a PL011 has {_BYTES:#x} bytes, no interrupt and no configuration "
                "here"
            )
        self.description = description
        self.windows: Sequence[Window] = (Window(description.gpa, description.size_bytes),)
        self.widths = ANY_WIDTH
        self._output = output
        self.reset()

    def attach(self, memory: GuestMemory, line: IrqLine | None) -> None:
        """Take nothing: this model stores to no RAM and has no line."""

    def reset(self) -> None:
        """Give every register its value at power-on."""
        self._registers = dict(zip(_STORED, _RESET, strict=True))

    def read(self, window: int, offset: int, size_bytes: int) -> int:
        """Return the register at `offset`; those that do not exist read as zero."""
        del window, size_bytes
        if offset == _UARTFR:
            return _FR_RXFE_TXFE
        if offset >= _PERIPHERAL_IDS and offset % 4 == 0:
            return _ID_BYTES[(offset - _PERIPHERAL_IDS) // 4]
        return self._registers.get(offset, 0)

    def write(self, window: int, offset: int, size_bytes: int, value: int) -> None:
        """Write the register at `offset`; writes to those that do not exist are ignored."""
        del window, size_bytes
        if offset == _UARTDR:
            if self._output is not None:
                self._output(bytes((value & 0xFF,)))
        elif offset in self._registers:
            self._registers[offset] = value & 0xFFFF

    def save(self) -> bytes:
        """Return the registers in this device's own form, version first."""
        return _STATE.pack(_STATE_VERSION, *self._registers.values())

    def objection(self, state: bytes) -> str:
        """Return why load() would refuse `state`, "" if it would not."""
        if len(state) != _STATE.size:
            return f"{self.description.name} state has {len(state)} bytes, expected {_STATE.size}"
        version, *_ = _STATE.unpack(state)
        if version != _STATE_VERSION:
            name = self.description.name
            return f"{name} state has version {version}, expected {_STATE_VERSION}"
        return ""

    def load(self, state: bytes) -> None:
        """Take over what save() gave. Raises StateError; nothing has changed then."""
        if objection := self.objection(state):
            raise StateError(objection)
        _version, *values = _STATE.unpack(state)
        self._registers = dict(zip(_STORED, values, strict=True))
