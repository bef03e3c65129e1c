"""The PL011 UART as a guest's console: output at once, input through the receive FIFO.

Source: Arm PrimeCell UART (PL011) Technical Reference Manual, DDI 0183G (r1p5), chapters 2 and 3.
"""

import struct
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import ClassVar, Final

from tagalong._native import PublishedRegister
from tagalong.binary.layout import Layout
from tagalong.devices.device import ANY_WIDTH, Window, require_plain_window
from tagalong.devices.irq import IrqLine
from tagalong.errors import StateError
from tagalong.machine import DEFAULT_CONSOLE, DeviceDescription
from tagalong.memory import GuestMemory

_BYTES: Final = 0x1000

_UARTDR: Final = 0x000
_UARTRSR: Final = 0x004  # receive status when read, error clear when written
_UARTFR: Final = 0x018
_UARTLCR_H: Final = 0x02C
_UARTCR: Final = 0x030
_UARTIFLS: Final = 0x034
_UARTIMSC: Final = 0x038
_UARTRIS: Final = 0x03C
_UARTMIS: Final = 0x040
_UARTICR: Final = 0x044
_PERIPHERAL_IDS: Final = 0xFE0
_ID_BYTES: Final = bytes((0x11, 0x10, 0x34, 0x00, 0x0D, 0xF0, 0x05, 0xB1))

# Registers that hold what was written: IBRD, FBRD, LCR_H, CR, IFLS, IMSC, DMACR.
_STORED: Final = (0x024, 0x028, _UARTLCR_H, _UARTCR, _UARTIFLS, _UARTIMSC, 0x048)
_RESET: Final = (0, 0, 0, 0x300, 0x12, 0, 0)

_FR_RXFE: Final = 1 << 4
_FR_RXFF: Final = 1 << 6
_FR_TXFE: Final = 1 << 7
_LCR_FEN: Final = 1 << 4
_CR_ENABLED: Final = 1 << 0
_CR_LOOPBACK: Final = 1 << 7
_CR_RECEIVES: Final = 1 << 9

# Interrupts, as bits of RIS, MIS, IMSC and ICR.
_RECEIVE: Final = 1 << 4
_TRANSMIT: Final = 1 << 5
_TIMEOUT: Final = 1 << 6
_BREAK: Final = 1 << 9
_INTERRUPTS: Final = 0x7FF

# What stands beside a byte in the FIFO: bit 10 of UARTDR, bit 2 of UARTRSR.
_BREAK_ENTRY: Final = 1 << 10
_STATUS_SHIFT: Final = 8

FIFO_ENTRIES: Final = 32
"""The depth of the receive FIFO of revision r1p5, which the identification registers name."""

# UARTIFLS.RXIFLSEL: at how many eighths of the FIFO the receive interrupt comes. 5 to 7: reserved.
_EIGHTHS: Final = (1, 2, 4, 6, 7, 7, 7, 7)

_REGISTER_FIELDS: Final = ("ibrd", "fbrd", "lcr_h", "cr", "ifls", "imsc", "dmacr")
_ENTRIES: Final = struct.Struct(f"<{FIFO_ENTRIES}H")

# The state's form, docs/formats/pl011.md; version 1 is of a model without input.
STATE_V1_LAYOUT: Final = Layout(("version", "u32"), *((name, "u32") for name in _REGISTER_FIELDS))
STATE_LAYOUT: Final = Layout(
    *STATE_V1_LAYOUT.fields,
    ("rsr", "u32"),
    ("ris", "u32"),
    ("entry_count", "u32"),
    ("entries", _ENTRIES.size),
)
_STATE_VERSION: Final = 2
_OLD_STATE_VERSION: Final = 1
_LAYOUTS: Final = {_OLD_STATE_VERSION: STATE_V1_LAYOUT, _STATE_VERSION: STATE_LAYOUT}
_VERSION_BYTES: Final = 4


class Pl011:
    """One UART; `output` is called with each byte that the guest writes.

    Implements the Device Protocol. Beside a guest's accesses, which come one at a time, input may
    come from any thread. Raises UsageError for a description that no PL011 has.
    """

    KIND: ClassVar = "pl011"

    def __init__(
        self,
        output: Callable[[bytes], None] | None = None,
        description: DeviceDescription = DEFAULT_CONSOLE,
    ) -> None:
        require_plain_window(description, "PL011", _BYTES)
        self.description = description
        self.windows: Sequence[Window] = (Window(description.gpa, description.size_bytes),)
        self.widths = ANY_WIDTH
        self._output = output
        self._line: IrqLine | None = None
        # Drivers read the flags before each character that they write.
        self._published_flags = PublishedRegister(description.gpa + _UARTFR)
        self._lock = threading.RLock()
        self._room_wanted: Callable[[], None] | None = None
        self.reset()

    @property
    def published(self) -> Sequence[PublishedRegister]:
        """Return UARTFR."""
        return (self._published_flags,)

    def attach(self, memory: GuestMemory, line: IrqLine | None) -> None:
        """Take the interrupt line; this model stores to no RAM."""
        del memory
        self._line = line

    def reset(self) -> None:
        """Give every register its value at power-on, and empty the FIFO."""
        with self._lock:
            self._registers = dict(zip(_STORED, _RESET, strict=True))
            self._fifo: deque[int] = deque()
            self._status = 0
            self._raised = 0
            self._follow()

    # --- input ---

    def receive(self, data: bytes) -> int:
        """Take the first bytes of `data` as input, and return how many there was room for.

        None while the guest has the UART or its receiver off. From any thread.
        """
        with self._lock:
            taken = data[: self._room()]
            for byte in taken:
                self._push(byte)
            self._follow()
            return len(taken)

    def receive_break(self) -> bool:
        """Take a break, the line low for longer than a character; False if there was no room."""
        with self._lock:
            if not self._room():
                return False
            self._push(_BREAK_ENTRY)
            self._raised |= _BREAK
            self._follow()
            return True

    def when_readable(self, room_wanted: Callable[[], None] | None) -> None:
        """Call `room_wanted` whenever the guest may have made room for input, until replaced.

        It is called from the thread of the guest's access and must return at once.
        """
        self._room_wanted = room_wanted

    def _room(self) -> int:
        enabled = _CR_ENABLED | _CR_RECEIVES
        if self._registers[_UARTCR] & (enabled | _CR_LOOPBACK) != enabled:
            return 0
        return self._depth - len(self._fifo)

    @property
    def _depth(self) -> int:
        return FIFO_ENTRIES if self._registers[_UARTLCR_H] & _LCR_FEN else 1

    @property
    def _trigger(self) -> int:
        if self._depth == 1:
            return 1
        return FIFO_ENTRIES * _EIGHTHS[self._registers[_UARTIFLS] >> 3 & 7] // 8

    def _push(self, entry: int) -> None:
        self._fifo.append(entry)
        # The timeout comes when nothing followed for 32 bits' time: here, at once.
        self._raised |= _TIMEOUT
        if len(self._fifo) >= self._trigger:
            self._raised |= _RECEIVE

    def _pull(self) -> int:
        if not self._fifo:
            return 0
        entry = self._fifo.popleft()
        self._status = entry >> _STATUS_SHIFT
        if not self._fifo:
            self._raised &= ~_TIMEOUT
        if len(self._fifo) < self._trigger:
            self._raised &= ~_RECEIVE
        return entry

    # --- registers ---

    def read(self, window: int, offset: int, size_bytes: int) -> int:
        """Return the register at `offset`; those that do not exist read as zero."""
        del window, size_bytes
        with self._lock:
            value = self._read(offset)
            self._follow()
        if offset == _UARTDR:
            self._ask_for_input()
        return value

    def _read(self, offset: int) -> int:
        if offset == _UARTDR:
            return self._pull()
        computed = {
            _UARTRSR: self._status,
            _UARTFR: self._flags(),
            _UARTRIS: self._raised,
            _UARTMIS: self._masked(),
        }
        if offset in computed:
            return computed[offset]
        if offset >= _PERIPHERAL_IDS and offset % 4 == 0:
            return _ID_BYTES[(offset - _PERIPHERAL_IDS) // 4]
        return self._registers.get(offset, 0)

    def write(self, window: int, offset: int, size_bytes: int, value: int) -> None:
        """Write the register at `offset`; writes to those that do not exist are ignored."""
        del window, size_bytes
        with self._lock:
            if offset == _UARTDR:
                self._transmit(value & 0xFF)
            elif offset == _UARTRSR:
                self._status = 0
            elif offset == _UARTICR:
                self._raised &= ~value
            elif offset in self._registers:
                self._store(offset, value & 0xFFFF)
            self._follow()
        if offset in (_UARTCR, _UARTLCR_H):
            self._ask_for_input()

    def _store(self, offset: int, value: int) -> None:
        changes_fifo = (self._registers[offset] ^ value) & _LCR_FEN and offset == _UARTLCR_H
        self._registers[offset] = value
        if changes_fifo:  # turning the FIFO on or off flushes it
            self._fifo.clear()
            self._raised &= ~(_RECEIVE | _TIMEOUT)

    def _transmit(self, byte: int) -> None:
        if self._registers[_UARTCR] & _CR_LOOPBACK:
            if len(self._fifo) < self._depth:
                self._push(byte)
        elif self._output is not None:
            self._output(bytes((byte,)))
        # The transmit FIFO fell through its trigger level: it was filled and empties at once.
        self._raised |= _TRANSMIT

    def _flags(self) -> int:
        flags = _FR_TXFE
        if not self._fifo:
            flags |= _FR_RXFE
        if len(self._fifo) >= self._depth:
            flags |= _FR_RXFF
        return flags

    def _masked(self) -> int:
        return self._raised & self._registers[_UARTIMSC] & _INTERRUPTS

    def _follow(self) -> None:
        self._published_flags.value = self._flags()
        if self._line is not None:
            self._line.set(bool(self._masked()))

    def _ask_for_input(self) -> None:
        room_wanted = self._room_wanted
        if room_wanted is not None:
            room_wanted()

    # --- state ---

    def save(self) -> bytes:
        """Return registers and FIFO in this device's own form, version first."""
        with self._lock:
            entries = [*self._fifo, *[0] * (FIFO_ENTRIES - len(self._fifo))]
            return STATE_LAYOUT.pack(
                version=_STATE_VERSION,
                **dict(zip(_REGISTER_FIELDS, self._registers.values(), strict=True)),
                rsr=self._status,
                ris=self._raised,
                entry_count=len(self._fifo),
                entries=_ENTRIES.pack(*entries),
            )

    def objection(self, state: bytes) -> str:
        """Return why load() would refuse `state`, "" if it would not."""
        name = self.description.name
        version = int.from_bytes(state[:_VERSION_BYTES], "little")
        layout = _LAYOUTS.get(version)
        if len(state) < _VERSION_BYTES or layout is None:
            known = f"{_OLD_STATE_VERSION} or {_STATE_VERSION}"
            return f"{name} state has version {version}, expected {known}"
        if len(state) != layout.size:
            return f"{name} state has {len(state)} bytes, expected {layout.size}"
        count = layout.unpack(state).get("entry_count", 0)
        if count > FIFO_ENTRIES:
            return f"{name} state has {count} entries in its FIFO, at most {FIFO_ENTRIES} fit"
        return ""

    def load(self, state: bytes) -> None:
        """Take over what save() gave. Raises StateError; nothing has changed then."""
        if objection := self.objection(state):
            raise StateError(objection)
        # What version 1 lacks is zero: nothing was received.
        values = STATE_LAYOUT.unpack(state.ljust(STATE_LAYOUT.size, b"\0"))
        entries = _ENTRIES.unpack(values["entries"])
        with self._lock:
            stored = (values[name] for name in _REGISTER_FIELDS)
            self._registers = dict(zip(_STORED, stored, strict=True))
            self._status, self._raised = values["rsr"], values["ris"] & _INTERRUPTS
            self._fifo = deque(entries[: values["entry_count"]])
            self._follow()
