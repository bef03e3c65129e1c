"""Standard output and standard error as the command uses them.

A report that could not be written is an error like any other: OutputError, with its own exit
status. A reader that went away is not: `tagalong check core | head -1` has the verdict of the
check, and output without a reader is dropped. Messages on standard error never change a verdict,
whatever becomes of them.

The streams are replaced once, in `main`, so that no command and no library (click prints help,
rich draws bars) needs to know any of this.
"""

import io
import os
import select
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast

from tagalong.errors import OutputError
from tagalong.vmm.console import QueuedWriter, write_all

_MESSAGES_TIMEOUT_S = 1.0


REPORT_LOST = (
    "the report that was asked for is lost; give it a file or a pipe that can be written, and "
    "repeat the command"
)
"""What a failure of the output means for a command that reports; it may be repeated."""

ONLY_REPORT_LOST = "what was asked for is done, and only its report is lost"
"""What it means for a command that acts; repeating it would act twice."""


class ReportStream:
    """Standard output: what is written to a reader that went away is dropped.

    `write` and `flush` raise OutputError if the output fails for any other reason, and again
    each time after that: a library may try a stream out and hide what it met. `loss` says in the
    error what that means.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.loss = REPORT_LOST
        self._has_reader = True
        self._failure: OutputError | None = None

    def write(self, text: str) -> int:
        """Write `text`; raises OutputError."""
        data = text.encode(self._stream.encoding, self._stream.errors or "strict")
        self._attempt(lambda: write_all(self._stream.fileno(), data))
        return len(text)

    def flush(self) -> None:
        """Raise OutputError if the output has failed. Nothing is buffered here."""
        self._attempt(self._stream.flush)

    def _attempt(self, action: Callable[[], object]) -> None:
        if self._failure is None and self._has_reader:
            try:
                action()
            except BrokenPipeError:
                self._has_reader = False
                _discard(self._stream)
            except OSError as error:
                self._failure = OutputError(
                    f"cannot write to standard output: {error.strerror}; {self.loss}"
                )
                self._failure.__cause__ = error
                _discard(self._stream)
        if self._failure is not None:
            raise self._failure

    def __getattr__(self, name: str) -> Any:
        """Return any other attribute of the stream itself."""
        return getattr(self._stream, name)


class MessageStream:
    """Standard error: a message that cannot be written is dropped."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write `text` if that is possible."""
        try:
            return self._stream.write(text)
        except OSError:
            _discard(self._stream)
            return len(text)

    def flush(self) -> None:
        """Write what is buffered if that is possible."""
        try:
            self._stream.flush()
        except OSError:
            _discard(self._stream)

    def __getattr__(self, name: str) -> Any:
        """Return any other attribute of the stream itself."""
        return getattr(self._stream, name)


@contextmanager
def guarded_streams() -> Iterator[None]:
    """Have this process's sys.stdout and sys.stderr follow these rules for a `with` block.

    Descriptors 0 to 2 are opened if they are closed. Otherwise the next socket or file would
    get one of these numbers, and a message would be written into it. /dev/null opened for the
    wrong direction makes each use of a closed stream fail, as the caller asked.
    """
    for descriptor, mode in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_RDONLY)):
        _fill(descriptor, mode)
    stdout, stderr = sys.stdout or _text_stream(1), sys.stderr or _text_stream(2)
    sys.stdout = cast("TextIO", ReportStream(stdout))
    sys.stderr = cast("TextIO", MessageStream(stderr))
    try:
        yield
    finally:
        # Python flushes these two at exit. A failure was reported by then.
        for stream in (stdout, stderr):
            try:
                stream.flush()
            except OSError:
                _discard(stream)
        sys.stdout, sys.stderr = stdout, stderr


class _QueuedOutput(io.RawIOBase):
    """The bytes of standard error, on their way to a queue."""

    def __init__(self, writer: QueuedWriter) -> None:
        self._writer = writer

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._writer.write(bytes(data))
        return len(data)


@contextmanager
def queued_messages() -> Iterator[None]:
    """Have messages on sys.stderr never wait for their reader, for a `with` block.

    For a process that runs a VM: a reader that stopped must not stop the VM. What replaces the
    stream takes messages from any thread, whoever writes them (Python's own warnings too).
    At the end, what still waits is written for a second. If the reader does not take it, standard
    error is given up, so that the error that ended the VM does not wait for that reader either.
    """
    direct = sys.stderr
    direct.flush()
    writer = QueuedWriter(direct.fileno(), what="messages")
    output = cast("io.BufferedWriter", _QueuedOutput(writer))
    sys.stderr = io.TextIOWrapper(
        output, direct.encoding, errors="backslashreplace", write_through=True
    )
    try:
        yield
    finally:
        sys.stderr = direct
        if not (writer.close(_MESSAGES_TIMEOUT_S) and _takes_more(direct)):
            _discard(direct)


def _takes_more(stream: TextIO) -> bool:
    """Return whether a short message can be written to `stream` without waiting for long."""
    poll = select.poll()
    poll.register(stream.fileno(), select.POLLOUT)
    return bool(poll.poll(_MESSAGES_TIMEOUT_S * 1000))


def _fill(descriptor: int, mode: int) -> None:
    try:
        os.fstat(descriptor)
    except OSError:
        opened = os.open(os.devnull, mode)
        if opened != descriptor:
            os.dup2(opened, descriptor)
            os.close(opened)


def _text_stream(descriptor: int) -> TextIO:
    return open(descriptor, "w", encoding="utf-8", errors="backslashreplace", closefd=False)


def _discard(stream: TextIO) -> None:
    """Point the stream's descriptor to /dev/null.

    The stream still holds what it could not write, and Python flushes it once more at exit: it
    would complain, and exit with status 120.
    """
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)
