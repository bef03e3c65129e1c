"""Cuts a byte stream into QMP messages, without any I/O.

QMP has no frames: a message ends where its outermost bracket closes, and whether a line
end follows is the client's taste (the qemu.qmp package sends none). What cannot be the
start of a message runs to the end of its line. A control character other than tab, line
feed and carriage return ends whatever is being read: that is how QMP lets a client get a
confused server back to a known state (QEMU docs/interop/qmp-spec.rst, "Forcing the JSON
parser into known-good state").
"""

import re
from collections.abc import Iterator

MAX_MESSAGE_BYTES = 64 * 1024

_WHITESPACE = b" \t\r\n"

# The tokens that matter outside a string, inside one, and in a line that is no message.
# 0xff is never valid UTF-8 and ends a message too, as with QEMU. A line end cannot be in
# a JSON string, so that a forgotten quote costs one message and not all that follow.
_OUTSIDE = re.compile(rb'["{}\[\]\x00-\x08\x0b\x0c\x0e-\x1f\xff]')
_INSIDE = re.compile(rb'\\[^\x00-\x1f\xff]|["\x00-\x1f\xff]')
_NO_MESSAGE = re.compile(rb"[\x00-\x08\x0a-\x0c\x0e-\x1f\xff]")


class OversizedMessageError(ValueError):
    """A message longer than MAX_MESSAGE_BYTES: the rest of the stream has no meaning."""


class MessageSplitter:
    """Collects bytes and gives back whole messages, valid JSON or not.

    >>> splitter = MessageSplitter()
    >>> list(splitter.feed(b'{"execute": "stop"}{"exec'))
    [b'{"execute": "stop"}']
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._restart()

    def _restart(self) -> None:
        self._scanned = 0
        self._depth = 0
        self._in_string = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Add `data` and yield each message that it completes.

        Raises OversizedMessageError when a message, complete or not, exceeds the limit;
        the splitter must not be fed again then.
        """
        self._buffer += data
        while (end := self._find_end()) is not None:
            message = bytes(self._buffer[:end])
            del self._buffer[:end]
            self._restart()
            _check_size(message)
            yield message.strip(_WHITESPACE)
        _check_size(self._buffer)

    def _find_end(self) -> int | None:
        """Return where the message at the buffer's start ends; None needs more bytes."""
        if self._scanned == 0:
            self._skip_whitespace()
        while (token := self._next_token()) is not None:
            if self._ends_message(token):
                return self._scanned
        return None

    def _skip_whitespace(self) -> None:
        del self._buffer[: len(self._buffer) - len(self._buffer.lstrip(_WHITESPACE))]

    def _next_token(self) -> bytes | None:
        if self._in_string:
            pattern = _INSIDE
        else:
            pattern = _OUTSIDE if self._buffer.startswith((b"{", b"[")) else _NO_MESSAGE
        found = pattern.search(self._buffer, self._scanned)
        if found is None:
            # An escape cut in two is looked at again when its second half is there.
            rest = self._buffer[self._scanned :]
            self._scanned = len(self._buffer) - (self._in_string and rest.endswith(b"\\"))
            return None
        self._scanned = found.end()
        return found.group()

    def _ends_message(self, token: bytes) -> bool:
        if token in (b"{", b"["):
            self._depth += 1
            return False
        if token in (b"}", b"]"):
            self._depth -= 1
            return self._depth == 0
        if token == b'"':
            self._in_string = not self._in_string
            return False
        return len(token) == 1  # a control character; two bytes are an escape


def _check_size(message: bytes | bytearray) -> None:
    if len(message) > MAX_MESSAGE_BYTES:
        raise OversizedMessageError(f"QMP message exceeds {MAX_MESSAGE_BYTES} bytes")
