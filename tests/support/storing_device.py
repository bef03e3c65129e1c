"""A device for tests that does what a virtio device does: it stores to RAM and interrupts.

Each store to GO writes the number of such stores so far to the next of some pages, and asserts
the line until a store to ACK. A store to FAULT finds a bug in the model. A second window, far
from the first, says which device it is.
"""

import struct
from dataclasses import replace

from tagalong.devices import IrqLine, Window
from tagalong.errors import StateError
from tagalong.machine import DEFAULT_CONSOLE, DeviceDescription
from tagalong.memory import Gpa, GuestMemory

KIND = "storer"
GPA = Gpa(0x0A00_0200)  # not page aligned, as virtio-mmio's are not
BYTES = 0x200
SECOND_GPA = Gpa(0x0B00_0000)
SECOND_ID = 0x57
PAGE = 4096

START, PAGES, GO, ACK, COUNT, FAULT = range(0, 0x30, 8)

DESCRIPTION = DeviceDescription("storer0", KIND, GPA, BYTES, 48, b"\1")
DEVICES = (DEFAULT_CONSOLE, DESCRIPTION)

_STATE = struct.Struct("<4Q")


class StoringDevice:
    """Implements the Device Protocol."""

    def __init__(self, description: DeviceDescription = DESCRIPTION) -> None:
        self.description = description
        second = Gpa(SECOND_GPA + (description.gpa - GPA))
        self.windows = (
            Window(description.gpa, description.size_bytes),
            Window(second, PAGE),
        )
        self.widths = frozenset({4, 8})
        self.memory: GuestMemory | None = None
        self.line: IrqLine | None = None
        self.reset()

    def attach(self, memory: GuestMemory, line: IrqLine | None) -> None:
        self.memory, self.line = memory, line

    def reset(self) -> None:
        self.start = self.pages = self.count = 0
        self._set_line(False)

    def read(self, window: int, offset: int, size_bytes: int) -> int:
        del size_bytes
        if window == 1:
            return SECOND_ID
        values = {START: self.start, PAGES: self.pages, ACK: self._level, COUNT: self.count}
        return values.get(offset, 0)

    def write(self, window: int, offset: int, size_bytes: int, value: int) -> None:
        del size_bytes
        match window, offset:
            case 0, 0:
                self.start = value
            case 0, 8:
                self.pages = value
            case 0, 16:
                self._store()
            case 0, 24:
                self._set_line(False)
            case 0, 40:
                raise ValueError("a bug here")

    def save(self) -> bytes:
        return _STATE.pack(self.start, self.pages, self.count, self._level)

    def objection(self, state: bytes) -> str:
        return (
            ""
            if len(state) == _STATE.size
            else f"{self.description.name} state has {len(state)} bytes"
        )

    def load(self, state: bytes) -> None:
        if objection := self.objection(state):
            raise StateError(objection)
        self.start, self.pages, self.count, level = _STATE.unpack(state)
        self._set_line(bool(level))

    @property
    def _level(self) -> bool:
        return self.line is not None and self.line.level

    def _set_line(self, level: bool) -> None:
        if self.line is not None:
            self.line.set(level)

    def _store(self) -> None:
        assert self.memory is not None
        self.count += 1
        gpa = Gpa(self.start + self.count % self.pages * PAGE)
        self.memory.write(gpa, self.count.to_bytes(8, "little"))
        self._set_line(True)


MODELS = {KIND: StoringDevice}


def described(number: int) -> DeviceDescription:
    """Return the description of another such device, a page after the last."""
    return replace(DESCRIPTION, name=f"storer{number}", gpa=Gpa(GPA + number * PAGE))
