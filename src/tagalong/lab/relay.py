"""Relays bytes between sockets, a terminal and callbacks, in one thread.

No direction blocks another: a machine that floods its output still receives keystrokes.
"""

import os
import selectors
from collections.abc import Callable
from socket import SHUT_WR, socket

_CHUNK_BYTES = 1 << 16
_ESCAPE = b"\x1d"

Sink = Callable[[bytes], None]


class Relay:
    """Passes bytes that arrive at each socket to its sink, and feeds a socket from a descriptor."""

    def __init__(self) -> None:
        # poll(2): epoll rejects regular files, and the input may be one.
        self._selector = selectors.PollSelector()
        self._sinks: dict[socket, Sink] = {}
        self._feeds: list[_Feed] = []

    @property
    def is_over(self) -> bool:
        """Return True if the peers have closed all sockets."""
        return not self._sinks

    def add_output(self, end: socket, sink: Sink) -> None:
        """Call `sink` with the bytes that arrive at `end`, until the peer closes it."""
        self._sinks[end] = sink
        self._selector.register(end, selectors.EVENT_READ, lambda: self._receive(end))

    def add_input(self, descriptor: int, end: socket) -> None:
        """Send the bytes read from `descriptor` to `end`; at end of file, shut `end` down."""
        self._feeds.append(_Feed(self._selector, descriptor, end))

    def turn(self, seconds: float) -> bool:
        """Wait for events and handle them; return False if none came within `seconds`."""
        ready = self._selector.select(max(seconds, 0))
        for key, _ in ready:
            key.data()
        return bool(ready) and seconds > 0

    def close(self) -> None:
        """Close the selector and the feeds; the sockets passed in stay open."""
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
    """Sends the bytes it reads from a descriptor; reads more when those are sent."""

    def __init__(self, selector: selectors.BaseSelector, descriptor: int, end: socket) -> None:
        self._selector = selector
        self._descriptor = descriptor
        # A duplicate, because the socket itself is registered for reading.
        self._end = end.dup()
        self._end.setblocking(False)
        self._unsent = b""
        self._listen()

    def close(self) -> None:
        """Close the duplicate of the socket."""
        self._end.close()

    def _listen(self) -> None:
        self._selector.register(self._descriptor, selectors.EVENT_READ, self._take)

    def _take(self) -> None:
        data = os.read(self._descriptor, _CHUNK_BYTES)
        if _ESCAPE in data and os.isatty(self._descriptor):
            # The machine receives Ctrl-C; Ctrl-] ends the machine.
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
            # The machine has ended; drop the rest.
            self._selector.unregister(self._end)
            return
        if not self._unsent:
            self._selector.unregister(self._end)
            self._listen()
