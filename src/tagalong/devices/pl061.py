"""The PL061 GPIO controller: eight lines, one of which the VM's power button is connected to.

Nothing else of the host is. A key that is pressed stays so until the guest has read that it is, and
is released in that moment: so no press is lost, whatever the guest's clock does, and no timer of
the host is part of the device's state. A driver sees both edges.

Source: Arm PrimeCell General Purpose Input/Output (PL061) Technical Reference Manual, DDI 0190B,
chapters 2 and 3.
"""

import threading
from typing import ClassVar, Final

from tagalong.binary.layout import Layout
from tagalong.devices.device import ANY_WIDTH, Window, require_plain_window, state_objection
from tagalong.devices.irq import IrqLine
from tagalong.errors import StateError
from tagalong.machine import DeviceDescription
from tagalong.memory import GuestMemory

LINES: Final = 8

_BYTES: Final = 0x1000
_MASK: Final = (1 << LINES) - 1

# GPIODATA is at each of these offsets: bits 9:2 of an access say which lines it is about.
_DATA_END: Final = 0x400
_MASK_SHIFT: Final = 2

_GPIODIR: Final = 0x400
_GPIOIS: Final = 0x404
_GPIOIBE: Final = 0x408
_GPIOIEV: Final = 0x40C
_GPIOIE: Final = 0x410
_GPIORIS: Final = 0x414
_GPIOMIS: Final = 0x418
_GPIOIC: Final = 0x41C
_GPIOAFSEL: Final = 0x420
_PERIPHERAL_IDS: Final = 0xFE0
_ID_BYTES: Final = bytes((0x61, 0x10, 0x04, 0x00, 0x0D, 0xF0, 0x05, 0xB1))

# Registers that hold what was written.
_STORED: Final = (_GPIODIR, _GPIOIS, _GPIOIBE, _GPIOIEV, _GPIOIE, _GPIOAFSEL)

_FIELDS: Final = ("dir", "is", "ibe", "iev", "ie", "afsel")
_STATE_VERSION: Final = 1
STATE_LAYOUT: Final = Layout(
    ("version", "u32"),
    *((name, "u32") for name in _FIELDS),
    ("outputs", "u32"),
    ("pressed", "u32"),
    ("edges", "u32"),
)


class Pl061:
    """One controller; implements the Device Protocol.

    Beside a guest's accesses, which come one at a time, a key may be pressed from any thread.
    Raises UsageError for a description that no PL061 has.
    """

    KIND: ClassVar = "pl061"

    def __init__(self, description: DeviceDescription) -> None:
        require_plain_window(description, "PL061", _BYTES)
        self.description = description
        self.windows = (Window(description.gpa, description.size_bytes),)
        self.widths = ANY_WIDTH
        self._line: IrqLine | None = None
        self._lock = threading.RLock()
        self.reset()

    def attach(self, memory: GuestMemory, line: IrqLine | None) -> None:
        """Take the interrupt line; this model stores to no RAM."""
        del memory
        self._line = line

    def reset(self) -> None:
        """Make all lines inputs without interrupts, and release all keys."""
        with self._lock:
            self._registers = dict.fromkeys(_STORED, 0)
            self._outputs = self._pressed = self._edges = 0
            self._follow()

    def press(self, line: int) -> None:
        """Press the key at a line, until the guest has read it. From any thread."""
        with self._lock:
            self._change(self._pressed | 1 << line)
            self._follow()

    # --- registers ---

    def read(self, window: int, offset: int, size_bytes: int) -> int:
        """Return the register at `offset`; those that do not exist read as zero."""
        del window, size_bytes
        with self._lock:
            if offset < _DATA_END:
                value = self._read_data(offset >> _MASK_SHIFT)
            else:
                value = self._read_register(offset)
            self._follow()
            return value

    def write(self, window: int, offset: int, size_bytes: int, value: int) -> None:
        """Write the register at `offset`; writes to those that do not exist are ignored."""
        del window, size_bytes
        with self._lock:
            if offset < _DATA_END:
                mask = offset >> _MASK_SHIFT & self._registers[_GPIODIR]
                self._outputs = self._outputs & ~mask | value & mask
            elif offset == _GPIOIC:
                self._edges &= ~value
            elif offset in self._registers:
                self._registers[offset] = value & _MASK
            self._follow()

    def _read_data(self, mask: int) -> int:
        outputs = self._registers[_GPIODIR]
        seen = self._pressed & ~outputs & mask
        value = self._outputs & outputs & mask | seen
        self._change(self._pressed & ~seen)
        return value

    def _read_register(self, offset: int) -> int:
        computed = {_GPIORIS: self._raised(), _GPIOMIS: self._raised() & self._registers[_GPIOIE]}
        if offset in computed:
            return computed[offset]
        if offset >= _PERIPHERAL_IDS and offset % 4 == 0:
            return _ID_BYTES[(offset - _PERIPHERAL_IDS) // 4]
        return self._registers.get(offset, 0)

    def _change(self, pressed: int) -> None:
        """Let keys be pressed or released, and note the edges that cause interrupts."""
        registers = self._registers
        changed = (self._pressed ^ pressed) & ~registers[_GPIODIR] & ~registers[_GPIOIS]
        wanted = registers[_GPIOIBE] | ~(registers[_GPIOIEV] ^ pressed)
        self._pressed = pressed
        self._edges |= changed & wanted

    def _raised(self) -> int:
        """Return GPIORIS: edges that came, and levels that are."""
        registers = self._registers
        inputs = ~registers[_GPIODIR]
        levels = registers[_GPIOIS] & ~(registers[_GPIOIEV] ^ self._pressed) & inputs
        return (self._edges & ~registers[_GPIOIS] | levels) & _MASK

    def _follow(self) -> None:
        if self._line is not None:
            self._line.set(bool(self._raised() & self._registers[_GPIOIE]))

    # --- state ---

    def save(self) -> bytes:
        """Return the registers and the keys in this device's own form, version first."""
        with self._lock:
            return STATE_LAYOUT.pack(
                version=_STATE_VERSION,
                **dict(zip(_FIELDS, self._registers.values(), strict=True)),
                outputs=self._outputs,
                pressed=self._pressed,
                edges=self._edges,
            )

    def objection(self, state: bytes) -> str:
        """Return why load() would refuse `state`, "" if it would not."""
        name = self.description.name
        if objection := state_objection(name, state, STATE_LAYOUT, _STATE_VERSION):
            return objection
        for field, value in STATE_LAYOUT.unpack(state).items():
            if field != "version" and value & ~_MASK:
                return f"{name} state has {field} {value:#x}: a PL061 has {LINES} lines"
        return ""

    def load(self, state: bytes) -> None:
        """Take over what save() gave. Raises StateError; nothing has changed then."""
        if objection := self.objection(state):
            raise StateError(objection)
        values = STATE_LAYOUT.unpack(state)
        with self._lock:
            self._registers = {at: values[name] for at, name in zip(_STORED, _FIELDS, strict=True)}
            self._outputs = values["outputs"]
            self._pressed = values["pressed"]
            self._edges = values["edges"]
            self._follow()
