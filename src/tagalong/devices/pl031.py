"""The PL031 real-time clock: a counter of seconds, and an alarm.

It counts what its TimeSource says. Where that is UTC, the clock is a distance from UTC, as QEMU's
is by default: it goes on while the VM is paused, saved or on its way, and shows the right time
wherever the VM runs next. Where it is a time of the machine's own, the clock is what it showed
last, and stands with that time: so a run of the embedded machine stays one run. A VM that changes
from one kind to the other goes on from what the clock showed last.

Source: Arm PrimeCell Real Time Clock (PL031) Technical Reference Manual, DDI 0224C, chapters 2 and
3. As in QEMU, the clock cannot be stopped (RTCCR), and a reset of the machine leaves the time.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

from tagalong.binary.layout import Layout
from tagalong.devices.device import (
    ANY_WIDTH,
    Doorbell,
    Window,
    require_plain_window,
    state_objection,
)
from tagalong.devices.irq import IrqLine
from tagalong.devices.time_source import NS_PER_S, TimeSource
from tagalong.errors import StateError
from tagalong.machine import DeviceDescription
from tagalong.memory import GuestMemory

FIRST_TIME_S: Final = 1_735_689_600
"""2025-01-01T00:00:00Z: what a new clock shows first where the host's time may not show."""

_BYTES: Final = 0x1000
_MODULUS: Final = 1 << 32

_RTCDR: Final = 0x00
_RTCMR: Final = 0x04
_RTCLR: Final = 0x08
_RTCCR: Final = 0x0C
_RTCIMSC: Final = 0x10
_RTCRIS: Final = 0x14
_RTCMIS: Final = 0x18
_RTCICR: Final = 0x1C
_PERIPHERAL_IDS: Final = 0xFE0
_ID_BYTES: Final = bytes((0x31, 0x10, 0x14, 0x00, 0x0D, 0xF0, 0x05, 0xB1))

_STATE_VERSION: Final = 1
STATE_LAYOUT: Final = Layout(
    ("version", "u32"),
    ("is_utc", "u32"),
    ("utc_offset", "u32"),
    ("count", "u32"),
    ("match", "u32"),
    ("load", "u32"),
    ("imsc", "u32"),
    ("ris", "u32"),
)
_FLAGS: Final = ("is_utc", "imsc", "ris")


@dataclass(frozen=True)
class _Stopped:
    """A clock that nobody can read: what it showed last, and how far that is ahead of UTC.

    `utc_offset_s`: None if what it counts is not UTC.
    """

    count: int
    utc_offset_s: int | None


class Pl031:
    """One clock; implements the BackedDevice Protocol, for its alarm comes by itself.

    Raises UsageError for a description that no PL031 has.
    """

    KIND: ClassVar = "pl031"

    doorbells: Sequence[Doorbell] = ()
    is_active = True  # it has nothing that another process could want

    def __init__(self, description: DeviceDescription, source: TimeSource) -> None:
        require_plain_window(description, "PL031", _BYTES)
        self.description = description
        self.windows = (Window(description.gpa, description.size_bytes),)
        self.widths = ANY_WIDTH
        self._source = source
        self._alarm = source.alarm(self._ring)
        self._line: IrqLine | None = None
        self._lock = threading.RLock()
        self._fail: Callable[[Exception], None] | None = None
        self._match = 0
        self._offset = 0  # of the count from the source's seconds, while it goes
        self._stopped: _Stopped | None = _Stopped(FIRST_TIME_S, 0)
        self._seen = self._seen_at_s = 0  # the count, and the source's seconds, at the last look
        self.reset()

    def attach(self, memory: GuestMemory, line: IrqLine | None) -> None:
        """Take the interrupt line; this model stores to no RAM."""
        del memory
        self._line = line

    def reset(self) -> None:
        """Forget the alarm; the time goes on, as that of a clock with a battery."""
        with self._lock:
            self._look()
            self._match = self._load = 0
            self._is_unmasked = self._is_raised = False
            self._follow()

    # --- time ---

    def pause(self) -> None:
        """Stop the clock where it is; the alarm does not come any more."""
        with self._lock:
            self._look()
            offset = self._offset if self._source.is_utc else None
            self._stopped = self._stopped or _Stopped(self._seen, offset)
            self._follow()

    def resume(self, fail: Callable[[Exception], None]) -> None:
        """Let the clock go on from UTC, or else from where it stopped."""
        with self._lock:
            self._fail = fail
            stopped, self._stopped = self._stopped, None
            if stopped is not None:
                self._offset = stopped.count - self._source.now_ns() // NS_PER_S
                if self._source.is_utc and stopped.utc_offset_s is not None:
                    self._offset = stopped.utc_offset_s
            self._look()
            self._follow()

    def _look(self) -> None:
        """Take the time from the source; raise the alarm if its second has come since the last."""
        self._seen_at_s = self._source.now_ns() // NS_PER_S
        if self._stopped is not None:
            count = self._stopped.count
        else:
            count = (self._seen_at_s + self._offset) % _MODULUS
        gone = (count - self._seen) % _MODULUS
        # A host's clock that was set back has not gone round.
        if gone < _MODULUS // 2 and 0 < (self._match - self._seen) % _MODULUS <= gone:
            self._is_raised = True
        self._seen = count

    def _set_count(self, count: int) -> None:
        """Set the clock, within the second that was seen."""
        self._offset += count - self._seen
        if self._stopped is not None:
            known = self._stopped.utc_offset_s
            ahead = None if known is None else known + count - self._stopped.count
            self._stopped = _Stopped(count, ahead)
        self._seen = count

    def _ring(self) -> None:
        try:
            with self._lock:
                self._look()
                self._follow()
        except Exception as error:  # noqa: BLE001 - or a dead thread would pass for a clock
            if self._fail is not None:
                self._fail(error)

    def _follow(self) -> None:
        """Let the line say what the registers say, and wait for the alarm if it may change it."""
        if self._line is not None:
            self._line.set(self._is_raised and self._is_unmasked)
        left_s = (self._match - self._seen) % _MODULUS
        if self._stopped is not None or self._is_raised or not self._is_unmasked or not left_s:
            self._alarm.set(None)
        else:
            self._alarm.set((self._seen_at_s + left_s) * NS_PER_S)

    # --- registers ---

    def read(self, window: int, offset: int, size_bytes: int) -> int:
        """Return the register at `offset`; those that do not exist read as zero."""
        del window, size_bytes
        with self._lock:
            self._look()
            self._follow()
            return self._read_register(offset)

    def _read_register(self, offset: int) -> int:
        if offset >= _PERIPHERAL_IDS and offset % 4 == 0:
            return _ID_BYTES[(offset - _PERIPHERAL_IDS) // 4]
        registers = {
            _RTCDR: self._seen,
            _RTCMR: self._match,
            _RTCLR: self._load,
            _RTCCR: 1,
            _RTCIMSC: int(self._is_unmasked),
            _RTCRIS: int(self._is_raised),
            _RTCMIS: int(self._is_raised and self._is_unmasked),
        }
        return registers.get(offset, 0)

    def write(self, window: int, offset: int, size_bytes: int, value: int) -> None:
        """Write the register at `offset`; writes to those that do not exist are ignored."""
        del window, size_bytes
        value %= _MODULUS
        with self._lock:
            self._look()
            if offset == _RTCLR:
                self._load = value
                self._set_count(value)
            elif offset == _RTCMR:
                self._match = value
            elif offset == _RTCIMSC:
                self._is_unmasked = bool(value & 1)
            elif offset == _RTCICR and value & 1:
                self._is_raised = False
            if offset in (_RTCLR, _RTCMR) and self._match == self._seen:
                self._is_raised = True
            self._follow()

    # --- state ---

    def save(self) -> bytes:
        """Return the time and the registers in this device's own form, version first."""
        with self._lock:
            self._look()
            self._follow()
            offset: int | None = self._offset if self._source.is_utc else None
            if self._stopped is not None:
                offset = self._stopped.utc_offset_s
            return STATE_LAYOUT.pack(
                version=_STATE_VERSION,
                is_utc=int(offset is not None),
                utc_offset=(offset or 0) % _MODULUS,
                count=self._seen,
                match=self._match,
                load=self._load,
                imsc=int(self._is_unmasked),
                ris=int(self._is_raised),
            )

    def objection(self, state: bytes) -> str:
        """Return why load() would refuse `state`, "" if it would not."""
        name = self.description.name
        if objection := state_objection(name, state, STATE_LAYOUT, _STATE_VERSION):
            return objection
        values = STATE_LAYOUT.unpack(state)
        for field in _FLAGS:
            if values[field] > 1:
                return f"{name} state has {field} {values[field]:#x}, expected 0 or 1"
        if values["utc_offset"] and not values["is_utc"]:
            return f"{name} state has utc_offset {values['utc_offset']:#x}, but is_utc is 0"
        return ""

    def load(self, state: bytes) -> None:
        """Take over what save() gave. Raises StateError; nothing has changed then."""
        if objection := self.objection(state):
            raise StateError(objection)
        values = STATE_LAYOUT.unpack(state)
        with self._lock:
            offset = values["utc_offset"] if values["is_utc"] else None
            self._stopped = _Stopped(values["count"], offset)
            self._seen, self._match, self._load = (values[x] for x in ("count", "match", "load"))
            self._is_unmasked, self._is_raised = bool(values["imsc"]), bool(values["ris"])
            self._follow()

    # --- the host's side, which is the alarm alone ---

    def activate(self) -> None:
        """Do nothing: see `is_active`."""

    def flush(self) -> None:
        """Do nothing."""

    def inactivate(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """End the alarm."""
        self._alarm.close()
