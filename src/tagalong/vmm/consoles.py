"""Where a guest's console is: standard output, a terminal, a socket, or nowhere.

Each takes the guest's output from the machine's thread without ever blocking it (console.py), and
reads input in the event loop (console_input.py).
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from tagalong._lazy import module_when_used
from tagalong.errors import HostError, UsageError
from tagalong.vmm.console import QueuedWriter
from tagalong.vmm.console_input import ConsoleInput, InputReader

if TYPE_CHECKING:
    import asyncio
    import socket
    import tty
    from collections.abc import Callable

    from tagalong import socket_files
    from tagalong.vmm import console_keys, terminal
else:  # most consoles are standard output, and take no input
    asyncio = module_when_used("asyncio")
    socket = module_when_used("socket")
    tty = module_when_used("tty")
    socket_files = module_when_used("tagalong.socket_files")
    console_keys = module_when_used("tagalong.vmm.console_keys")
    terminal = module_when_used("tagalong.vmm.terminal")

_STDIN: Final = 0
_STDOUT: Final = 1
_BACKLOG: Final = 1
_LEAVING_TIMEOUT_S: Final = 0.1  # the event loop waits so long
_END_TIMEOUT_S: Final = 1.0

STDOUT: Final = "stdout"
STDIO: Final = "stdio"
NULL: Final = "null"
_PTY: Final = "pty"
_UNIX: Final = "unix:"


class Console(Protocol):
    """A place for a guest's console. All but `write` is called in the event loop's thread."""

    @property
    def filename(self) -> str:
        """Return where it is, in the words of QEMU's query-chardev."""
        ...

    def write(self, data: bytes) -> None:
        """Take the guest's output and return at once; from any thread."""
        ...

    def start(self, typed: ConsoleInput) -> None:
        """Begin, and pass input on to `typed`. Raises HostError or UsageError if it cannot."""
        ...

    def close(self) -> None:
        """Write what waits, and leave everything as it was found. Safe to call twice."""
        ...


@dataclass(frozen=True)
class ConsoleActions:
    """What a console causes beside input and output.

    `announce` gets messages for people, which call it `label`; `quit` is called when a person ends
    the VM. `option`: what the console was asked for with.
    """

    announce: Callable[[str], None]
    quit: Callable[[], None]
    label: str = "console"
    option: str = "console"


def takes_input(name: str) -> bool:
    """Return whether the console of that name takes input from a person or a peer."""
    return name not in (STDOUT, NULL)


def create_console(name: str, actions: ConsoleActions) -> Console:
    """Return the console of that name. Raises UsageError if there is none."""
    if name == NULL:
        return NullConsole()
    if name == STDOUT:
        return StdoutConsole(actions)
    if name == STDIO:
        return StdioConsole(actions)
    if name == _PTY:
        return PtyConsole(actions)
    if name.startswith(_UNIX):
        return SocketConsole(Path(name.removeprefix(_UNIX)), actions)
    raise UsageError(
        f"--{actions.option} {name}: there is {STDOUT}, {STDIO}, {_PTY}, {_UNIX}PATH and {NULL}"
    )


class NullConsole:
    """Nowhere: output is dropped, and there is no input."""

    filename = NULL

    def write(self, data: bytes) -> None:
        """Drop it."""

    def start(self, typed: ConsoleInput) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class StdoutConsole:
    """Output to standard output, and no input."""

    filename = STDOUT

    def __init__(self, actions: ConsoleActions) -> None:
        self._output = QueuedWriter(_STDOUT, actions.announce)

    def write(self, data: bytes) -> None:
        """As Console.write."""
        self._output.write(data)

    def start(self, typed: ConsoleInput) -> None:
        """Do nothing: there is no input."""

    def close(self) -> None:
        """As Console.close."""
        self._output.close()


class StdioConsole:
    """Output to standard output, input from standard input; on a terminal every key counts."""

    filename = STDIO

    def __init__(self, actions: ConsoleActions) -> None:
        self._output = QueuedWriter(_STDOUT, actions.announce)
        self._actions = actions
        self._terminal: terminal.RawTerminal | None = None
        self._reader: InputReader | None = None

    def write(self, data: bytes) -> None:
        """As Console.write."""
        self._output.write(data)

    def start(self, typed: ConsoleInput) -> None:
        """As Console.start."""
        if not os.isatty(_STDIN):
            self._reader = InputReader(_STDIN, typed, typed.type)
            return
        self._terminal = terminal.RawTerminal(_STDIN)
        self._terminal.enter()
        keys = console_keys.KeyFilter()

        def take(data: bytes) -> None:
            for each in keys.split(data):
                if isinstance(each, bytes):
                    typed.type(each)
                else:
                    self._obey(each, typed)

        self._reader = InputReader(_STDIN, typed, take)
        self._actions.announce("the terminal is the guest's; Ctrl-A x ends the VM, Ctrl-A h helps")

    def _obey(self, key: console_keys.ConsoleKey, typed: ConsoleInput) -> None:
        match key:
            case console_keys.ConsoleKey.QUIT:
                self._actions.quit()
            case console_keys.ConsoleKey.BREAK:
                typed.send_break()
            case console_keys.ConsoleKey.HELP:
                self._actions.announce(console_keys.HELP)

    def close(self) -> None:
        """As Console.close."""
        if self._reader is not None:
            self._reader.stop()
        self._output.close()
        if self._terminal is not None:
            self._terminal.restore()


class PtyConsole:
    """A pseudo-terminal of its own, which any terminal program can open by its name."""

    def __init__(self, actions: ConsoleActions) -> None:
        try:
            # Our end of the other side stays open: without any, reading would fail for ever.
            self._descriptor, self._other = os.openpty()
            tty.setraw(self._other)
        except OSError as error:
            raise HostError(f"cannot create a pseudo-terminal: {error.strerror}") from error
        self._name = os.ttyname(self._other)
        self._actions = actions
        self._output = QueuedWriter(self._descriptor, actions.announce)
        self._reader: InputReader | None = None

    @property
    def filename(self) -> str:
        """As Console.filename."""
        return f"{_PTY}:{self._name}"

    def write(self, data: bytes) -> None:
        """As Console.write."""
        self._output.write(data)

    def start(self, typed: ConsoleInput) -> None:
        """As Console.start."""
        self._reader = InputReader(self._descriptor, typed, typed.type)
        self._actions.announce(f"{self._actions.label}: {self._name}")

    def close(self) -> None:
        """As Console.close; who has the terminal open sees its end."""
        if self._reader is not None:
            self._reader.stop()
        # Without a reader nothing can be written; the thread that waits for a reader ends with us.
        if self._output.close() and self._descriptor >= 0:
            os.close(self._descriptor)
            os.close(self._other)
            self._descriptor = -1


class SocketConsole:
    """A Unix socket with one client at a time; without one, output is dropped."""

    def __init__(self, path: Path, actions: ConsoleActions) -> None:
        self._file = socket_files.SocketFile(path, "console socket", _BACKLOG)
        self._file.socket.setblocking(False)
        self._actions = actions
        self._client: _SocketClient | None = None
        self._typed: ConsoleInput | None = None

    @property
    def filename(self) -> str:
        """As Console.filename."""
        where = f"{_UNIX}{self._file.path},server=on"
        return where if self._client is not None else f"disconnected:{where}"

    def write(self, data: bytes) -> None:
        """As Console.write."""
        client = self._client
        if client is not None:
            client.output.write(data)

    def start(self, typed: ConsoleInput) -> None:
        """As Console.start."""
        self._typed = typed
        asyncio.get_running_loop().add_reader(self._file.socket, self._accept)
        self._actions.announce(f"{self._actions.label}: {_UNIX}{self._file.path}")

    def close(self) -> None:
        """As Console.close."""
        if self._typed is not None:
            asyncio.get_running_loop().remove_reader(self._file.socket)
            self._typed = None
        self._drop_client(_END_TIMEOUT_S)
        self._file.remove()
        self._file.socket.close()

    def _accept(self) -> None:
        try:
            connection, _ = self._file.socket.accept()
        except OSError:  # the client has gone already, or descriptors are short: it will try again
            return
        if self._client is not None and self._client.is_gone:
            self._drop_client()  # it left, and its successor was noticed first
        if self._client is not None or self._typed is None:
            connection.close()
            return
        self._client = _SocketClient(connection, self._typed, self._drop_client)

    def _drop_client(self, timeout_s: float = _LEAVING_TIMEOUT_S) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close(timeout_s)


class _SocketClient:
    """One connection to the console."""

    def __init__(
        self, connection: socket.socket, typed: ConsoleInput, ended: Callable[[], None]
    ) -> None:
        connection.setblocking(False)
        self._connection = connection
        self.output = QueuedWriter(connection.fileno())
        self._reader = InputReader(connection.fileno(), typed, typed.type, ended)

    @property
    def is_gone(self) -> bool:
        try:
            return not self._connection.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def close(self, timeout_s: float) -> None:
        """Write what waits, for at most `timeout_s`, and hang up."""
        self._reader.stop()
        if not self.output.close(timeout_s):
            # Its thread waits for a peer that reads nothing. Were the descriptor closed under it,
            # it would write to what gets the same number next.
            with suppress(OSError):
                self._connection.shutdown(socket.SHUT_RDWR)
            self.output.close(None)
        self._connection.close()
