"""`tagalong lab shell` on a real pseudo-terminal."""

import os
import pty
import re
import select
import time
from collections.abc import Iterator

import pytest

from tests.support.lab_command import arguments

PROMPT = rb"lab:/tagalong# "


class Person:
    """Sits at the terminal: waits for what is shown, types."""

    def __init__(self) -> None:
        self.pid, self._terminal = pty.fork()
        if self.pid == 0:
            command = arguments("shell", "--timeout", "280")
            os.execvpe(command[0], command, {**os.environ, "TERM": "xterm"})
        self._seen = b""

    def wait_for(self, pattern: bytes, seconds: float = 240) -> bytes:
        """Return what was shown up to the end of what matches."""
        end = time.monotonic() + seconds
        while not (found := re.search(pattern, self._seen)):
            ready = select.select([self._terminal], [], [], max(end - time.monotonic(), 0))[0]
            assert ready, f"waiting for {pattern!r}, the terminal shows {self._seen!r}"
            self._seen += os.read(self._terminal, 4096)
        shown, self._seen = self._seen[: found.end()], self._seen[found.end() :]
        return shown

    def interrupt_until(self, pattern: bytes) -> None:
        """Type Ctrl-C until `pattern` is shown: the first one may be too early for the command."""
        for _ in range(30):
            self.type(b"\x03")
            if self._comes(pattern, 2):
                return
        raise AssertionError(f"no {pattern!r} after Ctrl-C: {self._seen!r}")

    def _comes(self, pattern: bytes, seconds: float) -> bool:
        try:
            self.wait_for(pattern, seconds)
        except AssertionError:
            return False
        return True

    def type(self, keys: bytes) -> None:
        os.write(self._terminal, keys)

    def status(self) -> int:
        """Return the exit status; what is still shown does not matter."""
        try:
            while os.read(self._terminal, 4096):
                pass
        except OSError:  # the other end is closed
            pass
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def close(self) -> None:
        os.close(self._terminal)


@pytest.fixture
def person() -> Iterator[Person]:
    someone = Person()
    yield someone
    someone.close()


def test_shell_has_a_terminal_and_only_ctrl_bracket_is_ours(person: Person) -> None:
    person.wait_for(PROMPT)
    person.type(b"sleep 1000\r")
    person.wait_for(b"sleep 1000\r\n")
    person.interrupt_until(PROMPT)
    person.type(b"tty; echo $TERM; uname -m\r")
    shown = person.wait_for(b"aarch64")
    person.type(b"sleep 1000\r\x1d")

    assert b"\r\n/dev/hvc0\r\nxterm\r\naarch64" in shown
    assert person.status() == 130
