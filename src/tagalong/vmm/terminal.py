"""A terminal that passes every key on, Ctrl-C included, and is as before when the VM ends."""

import atexit
import os
import termios
from contextlib import suppress
from typing import Any, Final

from tagalong.errors import HostError, UsageError

_IFLAG: Final = 0
_LFLAG: Final = 3
_CONTROL: Final = 6
_NO_INPUT_CHANGES: Final = (
    termios.IGNBRK | termios.BRKINT | termios.PARMRK | termios.ISTRIP
    | termios.INLCR | termios.IGNCR | termios.ICRNL | termios.IXON
)  # fmt: skip
_NO_LINE_EDITING: Final = (
    termios.ECHO | termios.ECHONL | termios.ICANON | termios.IEXTEN | termios.ISIG
)


class RawTerminal:
    """The terminal at `descriptor`, raw from `enter` until `restore`.

    What is printed stays as the terminal has it: messages of ours still begin on new lines.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._before: list[Any] | None = None

    def enter(self) -> None:
        """Make it raw; however this process ends by itself, it is restored.

        Raises UsageError in a process that runs in the background of its terminal, which would be
        stopped for this, HostError if the terminal does not allow it.
        """
        try:
            if os.tcgetpgrp(self._descriptor) != os.getpgrp():
                raise UsageError(
                    "--console stdio: this process is in the background of its terminal; start it "
                    "in the foreground, or use --console pty"
                )
            before = termios.tcgetattr(self._descriptor)
            raw = termios.tcgetattr(self._descriptor)
            raw[_IFLAG] &= ~_NO_INPUT_CHANGES
            raw[_LFLAG] &= ~_NO_LINE_EDITING
            raw[_CONTROL][termios.VMIN], raw[_CONTROL][termios.VTIME] = 1, 0
            atexit.register(self.restore)
            self._before = before
            termios.tcsetattr(self._descriptor, termios.TCSANOW, raw)
        except (OSError, termios.error) as error:
            raise HostError(f"cannot make the terminal raw: {error.args[-1]}") from error

    def restore(self) -> None:
        """Make it as it was before `enter`. Safe to call twice."""
        before, self._before = self._before, None
        if before is not None:
            with suppress(OSError, termios.error):  # the terminal may be gone
                termios.tcsetattr(self._descriptor, termios.TCSANOW, before)
            atexit.unregister(self.restore)
