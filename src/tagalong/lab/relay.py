"""Carries bytes between sockets, a terminal and callbacks, in one thread.

No side waits for another: a machine that floods its output can still be typed at.
"""

import os
import selectors
from collections.abc import Callable
from socket import SHUT_WR, socket

_CHUNK_BYTES = 1 << 16
_ESCAPE = b"\x1d"

Sink = Callable[[bytes], None]


class Relay:
    """Calls a sink with what arrives at each socket; feeds one of them from a descriptor."""

    def __init__(self) -> None:
        # poll(2), because epoll does not take regular files, and input may be one.
        self._selector = selectors.PollSelector()
        self._sinks: dict[socket, Sink] = {}
        self._feeds: list[_Feed] = []

    @property
    def is_over(self) -> bool:
        """Return True when all sockets have been closed by their peers."""
        return not self._sinks

    def add_output(self, end: socket, sink: Sink) -> None:
        """Call `sink` with what arrives at `end`, until its peer closes it."""
        self._sinks[end] = sink
        self._selector.register(end, selectors.EVENT_READ, lambda: self._receive(end))

    def add_input(self, descriptor: int, end: socket) -> None:
        """Send to `end` what can be read from `descriptor`, and then its end."""
        self._feeds.append(_Feed(self._selector, descriptor, end))

    def turn(self, seconds: float) -> bool:
        """Wait for something to do, and do it; return False if it took `seconds` or more."""
        ready = self._selector.select(max(seconds, 0))
        for key, _ in ready:
            key.data()
        return bool(ready) and seconds > 0

    def close(self) -> None:
        """Forget everything; the sockets stay as they are."""
        for feed in self._feeds:
            feed.close()
        self._selector.close()

    def _receive(self, end: socket) -> None:
        try:
            data = end.recv(_CHUNK_BYTES)
        except ConnectionError:
            data = b""
        if data:
            self._sinks[end](data)
        else:
            self._selector.unregister(end)
            del self._sinks[end]


class _Feed:
    """Sends what it reads from a descriptor; reads no more until that is sent."""

    def __init__(self, selector: selectors.BaseSelector, descriptor: int, end: socket) -> None:
        self._selector = selector
        self._descriptor = descriptor
        # Another descriptor of the same socket: the first is registered for reading.
        self._end = end.dup()
        self._end.setblocking(False)
        self._unsent = b""
        self._listen()

    def close(self) -> None:
        """Close what is our own."""
        self._end.close()

    def _listen(self) -> None:
        self._selector.register(self._descriptor, selectors.EVENT_READ, self._take)

    def _take(self) -> None:
        data = os.read(self._descriptor, _CHUNK_BYTES)
        if _ESCAPE in data and os.isatty(self._descriptor):
            # Ctrl-C belongs to the machine; this is what a person has for us.
            raise KeyboardInterrupt
        self._selector.unregister(self._descriptor)
        if data:
            self._unsent = data
            self._selector.register(self._end, selectors.EVENT_WRITE, self._send)
        else:
            self._end.shutdown(SHUT_WR)

    def _send(self) -> None:
        try:
            self._unsent = self._unsent[self._end.send(self._unsent) :]
        except BlockingIOError:
            return
        except ConnectionError:
            # The machine has ended: nobody wants the rest.
            self._selector.unregister(self._end)
            return
        if not self._unsent:
            self._selector.unregister(self._end)
            self._listen()
