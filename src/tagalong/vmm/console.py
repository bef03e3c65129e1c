"""Carries the guest's console and a VM's messages to a file, without ever blocking the VM.

The guest's UART passes bytes on in the machine's own thread, and messages come from the event
loop and from a migration's thread. The reader of our output may be slow or stuck. If the guest
waited for it, the machine could not be paused; if the event loop waited, the VM could not even
be ended. So the bytes wait in a bounded buffer for a thread of their own. What does not fit is
dropped, and a line in the output says how much.
"""

import errno
import os
import select
import threading
from collections.abc import Callable

MAX_WAITING_BYTES = 1024 * 1024

_CHUNK_BYTES = 64 * 1024


class QueuedWriter:
    """Writes to a file descriptor from a thread; `what` names the output in the dropped line.

    A reader that goes away (EPIPE) ends the output and not the VM; so does any other failure of
    the output, which `tell` gets a line about. `broken` is true from then on.
    """

    def __init__(
        self,
        descriptor: int,
        tell: Callable[[str], None] = lambda _: None,
        what: str = "console output",
    ) -> None:
        self.broken = False
        self._tell = tell
        self._what = what
        self._descriptor = descriptor
        self._waiting = bytearray()
        self._dropped_bytes = 0
        self._closing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="output", daemon=True)
        self._thread.start()

    def write(self, data: bytes) -> None:
        """Take `data` for output and return at once. From any thread."""
        with self._changed:
            if self.broken:
                return
            room = MAX_WAITING_BYTES - len(self._waiting)
            if len(data) > room:
                self._dropped_bytes += len(data)
                return
            self._say_what_was_dropped()
            self._waiting += data
            self._changed.notify()

    def close(self, timeout_s: float | None = 1.0) -> bool:
        """Write what waits, for at most `timeout_s`, and stop; return whether nothing waits.

        None: for as long as it takes.
        """
        with self._changed:
            self._say_what_was_dropped()
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _say_what_was_dropped(self) -> None:
        if self._dropped_bytes:
            line = f"\n[tagalong: {self._dropped_bytes} bytes of {self._what} dropped]\n"
            self._waiting += line.encode()
            self._dropped_bytes = 0

    def _run(self) -> None:
        while chunk := self._next_chunk():
            try:
                write_all(self._descriptor, chunk)
            except OSError as error:
                with self._changed:
                    self.broken = True
                    self._waiting.clear()
                if error.errno != errno.EPIPE:
                    self._tell(
                        f"cannot write the guest's console to standard output: {error.strerror}; "
                        "the VM runs on, and what it prints is dropped"
                    )
                return

    def _next_chunk(self) -> bytes:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing)
            chunk = bytes(self._waiting[:_CHUNK_BYTES])
            del self._waiting[:_CHUNK_BYTES]
            return chunk


def write_all(descriptor: int, data: bytes) -> None:
    """Write `data`, and wait for a slow reader also if the descriptor does not block.

    The descriptor is shared with other processes, so its mode is left as it is. Raises OSError.
    """
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:
            poll = select.poll()  # unlike select, it also ends when the connection is shut down
            poll.register(descriptor, select.POLLOUT)
            poll.poll()
