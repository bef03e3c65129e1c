"""The keys by which a person on the VM's own terminal talks to tagalong and not to the guest.

Ctrl-A begins a command, as on QEMU's terminal: x ends the VM, b sends a break, h shows help, and
Ctrl-A sends itself.
"""

from collections.abc import Iterator
from enum import Enum
from typing import Final

ESCAPE: Final = 0x01

HELP: Final = (
    "Ctrl-A x ends the VM, Ctrl-A b sends a break, Ctrl-A Ctrl-A sends Ctrl-A, Ctrl-A h shows this"
)


class ConsoleKey(Enum):
    """A command of the person at the terminal; the values are its keys after Ctrl-A."""

    QUIT = "x"
    BREAK = "b"
    HELP = "h"


class KeyFilter:
    """Takes commands out of what is typed; remembers an escape that ended one call."""

    def __init__(self) -> None:
        self._is_escaped = False

    def split(self, data: bytes) -> Iterator[bytes | ConsoleKey]:
        r"""Yield bytes for the guest, and commands, in the order in which they were typed.

        >>> list(KeyFilter().split(b"ls\x01x"))
        [b'ls', <ConsoleKey.QUIT: 'x'>]
        """
        plain = bytearray()
        for byte in data:
            if not self._is_escaped:
                self._is_escaped = byte == ESCAPE
                if byte != ESCAPE:
                    plain.append(byte)
                continue
            self._is_escaped = False
            command = _COMMANDS.get(byte)
            if byte == ESCAPE:
                plain.append(byte)
            elif command is not None:
                if plain:
                    yield bytes(plain)
                    plain.clear()
                yield command
        if plain:
            yield bytes(plain)


_COMMANDS: Final = {
    **{ord(key.value): key for key in ConsoleKey},
    ord("?"): ConsoleKey.HELP,
}
