"""Where a one-way stream goes to, and where it comes from: files, commands, pipes."""

import contextlib
import fcntl
import os
import select
import signal
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from io import FileIO
from typing import IO, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from tagalong.errors import HostError
from tagalong.files import NewFile, examine_output, open_stream, refuse_descriptor_name
from tagalong.migrate.transport.address import Address, ExecAddress, FdAddress, FileAddress
from tagalong.migrate.transport.channel import Interrupt, wait_ready
from tagalong.migrate.transport.inherited import take
from tagalong.write_behind import PageDigest, WriteBehind

_SHELL: Final = "/bin/sh"
_OTHERS: Final = 0o077
_EXIT_S: Final = 300.0
_BROKEN_S: Final = 1.0
_COPIED_BYTES: Final = 256 << 10
_SAID_BYTES: Final = 4096
_SAID_LINES: Final = 3


class Sink(Protocol):
    """Takes a stream. After `discard`, nothing that could pass for a whole one is left."""

    @property
    def is_revocable(self) -> bool:
        """Return whether `discard` takes back even a stream that is complete."""
        ...

    def write(self, data: memoryview) -> None:
        """Write all of `data`. Raises HostError."""
        ...

    def write_pages(
        self, memory: NDArray[np.uint8], page_bytes: int, digest: PageDigest
    ) -> list[NDArray[np.uint64]]:
        """Write whole pages, which may change meanwhile; return the digests of what is written.

        Raises HostError.
        """
        ...

    def secure(self) -> None:
        """Make safe what was written so far, as far as possible. Raises HostError."""
        ...

    def complete(self) -> None:
        """End the stream. Raises HostError if it is not certain that all of it is kept."""
        ...

    def discard(self) -> None:
        """Give up. Raises nothing."""
        ...


class _Behind:
    """Writes a stream into a file from byte `at` on, while more of it is being made."""

    is_revocable = True

    def __init__(self, address: FileAddress, fd: int, at: int) -> None:
        self._address = address
        self._behind = WriteBehind(fd)
        self._at = at

    def write(self, data: memoryview) -> None:
        """As Sink."""
        with _named(self._address):
            self._behind.write(self._at, np.frombuffer(data, np.uint8))
        self._at += len(data)

    def write_pages(
        self, memory: NDArray[np.uint8], page_bytes: int, digest: PageDigest
    ) -> list[NDArray[np.uint64]]:
        """As Sink."""
        with _named(self._address):
            digests = self._behind.write_pages(self._at, memory, page_bytes, digest)
        self._at += memory.size
        return digests


class FileSink(_Behind):
    """A file that gets its name when it is complete, and is its owner's only: it holds a guest.

    tagalong.files says what may have the name now. Raises HostError if it cannot be created.
    """

    def __init__(self, address: FileAddress) -> None:
        self._file = NewFile(address.path)
        super().__init__(address, self._file.fd, 0)

    def secure(self) -> None:
        """As Sink."""
        with _named(self._address):
            self._behind.flush()
            self._file.sync()

    def complete(self) -> None:
        """As Sink."""
        with _named(self._address):
            self._behind.flush()
            self._behind.close()
            self._file.publish()

    def discard(self) -> None:
        """As Sink."""
        self._behind.close()
        self._file.close()


class PlaceInFile(_Behind):
    """A file that has something else before the stream, which starts at an offset.

    It is written in place, so no other user may be able to read or write it: it will hold a guest.
    Raises HostError if it cannot be opened, or is not a regular file of that kind.
    """

    def __init__(self, address: FileAddress) -> None:
        self._address = address
        self._offset = address.offset
        with _named(address):
            refuse_descriptor_name(address.path)
            # No O_TRUNC and no O_NOFOLLOW: a link to such a file leads to the file.
            flags = os.O_RDWR | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC
            self._fd = os.open(address.path, flags, 0o600)
        try:
            self._require_private()
            with _named(address):
                os.ftruncate(self._fd, self._offset)
        except BaseException:
            os.close(self._fd)
            raise
        super().__init__(address, self._fd, self._offset)

    def _require_private(self) -> None:
        """Raise unless the file is this writer's alone."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise HostError(f"{self._address}: another process writes to this file") from error
        found = os.fstat(self._fd)
        if not stat.S_ISREG(found.st_mode):
            raise HostError(f"{self._address}: an offset needs a regular file")
        if found.st_uid != os.geteuid():
            raise HostError(f"{self._address}: this file belongs to another user")
        if found.st_mode & _OTHERS:
            raise HostError(
                f"{self._address}: other users may open this file (mode "
                f"{stat.S_IMODE(found.st_mode):04o}), and the stream holds the guest's memory; "
                "make it private first: chmod 600"
            )

    def secure(self) -> None:
        """As Sink."""
        with _named(self._address):
            self._behind.flush()
            os.fsync(self._fd)

    def complete(self) -> None:
        """As Sink."""
        self.secure()
        self._behind.close()
        os.close(self._fd)

    def discard(self) -> None:
        """As Sink: the file ends where the stream began."""
        self._behind.close()
        with contextlib.suppress(OSError):
            os.ftruncate(self._fd, self._offset)
        with contextlib.suppress(OSError):
            os.close(self._fd)


@contextlib.contextmanager
def _named(address: Address) -> Iterator[None]:
    """Let errors name the address."""
    try:
        yield
    except OSError as error:
        raise HostError(f"{address}: cannot write: {error.strerror}") from error
    except HostError as error:
        raise HostError(f"{address}: {error}") from error


class PipeSink:
    """The writing end of a pipe, and the command that reads from it if there is one.

    What went in cannot be taken back. `interrupt` is called during waits, each of which lasts
    `idle_s` at most.
    """

    is_revocable = False

    def __init__(
        self,
        address: Address,
        descriptor: int,
        child: "Child | None",
        interrupt: Interrupt,
        idle_s: float,
    ) -> None:
        self._address = address
        self._file = FileIO(descriptor, "w")
        self._child = child
        self._interrupt = interrupt
        self._idle_s = idle_s
        os.set_blocking(descriptor, False)

    def write(self, data: memoryview) -> None:
        """As Sink."""
        while data:
            try:
                count = self._file.write(data)
                if count is None:
                    self._wait()
                else:
                    data = data[count:]
            except OSError as error:
                raise HostError(
                    f"{self._address}: cannot write: {error.strerror}{self._why_it_ended()}"
                ) from error

    def _wait(self) -> None:
        until = time.monotonic() + self._idle_s
        if not wait_ready(self._file.fileno(), select.POLLOUT, until, self._interrupt):
            raise HostError(
                f"{self._address}: nothing was read from this pipe for {self._idle_s:.1f} s; see "
                "whether its reader still works"
            )

    def write_pages(
        self, memory: NDArray[np.uint8], page_bytes: int, digest: PageDigest
    ) -> list[NDArray[np.uint64]]:
        """As Sink."""
        digests, step = [], max(_COPIED_BYTES, page_bytes)
        for at in range(0, memory.size, step):
            pages = memory[at : at + step]
            copy = np.empty_like(pages)
            digests.append(digest(pages, copy))
            self.write(copy.data)
        return digests

    def _why_it_ended(self) -> str:
        """Return what the command says about its end, which a broken pipe comes from."""
        verdict = self._child.verdict(_BROKEN_S) if self._child is not None else None
        return f"; {verdict}" if verdict else ""

    def secure(self) -> None:
        """As Sink: a pipe keeps nothing."""

    def complete(self) -> None:
        """As Sink: the command must end with status 0."""
        self._file.close()
        if self._child is not None and (verdict := self._child.verdict(_EXIT_S)):
            raise HostError(f"{self._address}: {verdict}")

    def discard(self) -> None:
        """As Sink."""
        with contextlib.suppress(OSError):
            self._file.close()
        if self._child is not None:
            self._child.end()


class Child:
    """A shell command that one end of our stream goes through.

    Its standard error goes on to ours, and its last lines into the verdict: they say why.
    """

    def __init__(self, address: ExecAddress, *, writes: bool) -> None:
        """Start it; it gets a pipe to its standard output if it `writes`, else to its input.

        Raises HostError if it cannot be started.
        """
        pipe, nothing = subprocess.PIPE, subprocess.DEVNULL
        try:
            # The command is the operator's own, who could run it directly.
            self._process = subprocess.Popen(
                [_SHELL, "-c", address.command],
                stdin=nothing if writes else pipe,
                stdout=pipe if writes else nothing,
                stderr=pipe,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise HostError(f"{address}: cannot be started: {reason}") from error
        self._writes = writes
        self._said = b""
        self._listener = threading.Thread(target=self._listen, name="exec-stderr", daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        """Pass standard error on, and remember its end."""
        errors = self._process.stderr
        assert errors is not None  # noqa: S101 (asked for with PIPE)
        with errors, contextlib.suppress(OSError):
            while piece := os.read(errors.fileno(), _SAID_BYTES):
                self._said = (self._said + piece)[-_SAID_BYTES:]
                with contextlib.suppress(OSError):
                    os.write(2, piece)

    def take_pipe(self) -> int:
        """Return the descriptor of our end of the pipe, which is the caller's to close."""
        end: IO[bytes] | None = self._process.stdout if self._writes else self._process.stdin
        assert end is not None  # noqa: S101 (asked for with PIPE)
        descriptor = os.dup(end.fileno())
        end.close()
        return descriptor

    def verdict(self, timeout_s: float) -> str | None:
        """Return what is wrong with how the command ended; None if nothing is, or it still runs.

        A command that does not end in `timeout_s` is wrong if that is long.
        """
        try:
            status = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            is_long = timeout_s > _BROKEN_S
            return f"the command did not end in {timeout_s:.0f} s" if is_long else None
        if not status:
            return None
        how = f"with status {status}" if status > 0 else f"by {signal.Signals(-status).name}"
        return f"the command ended {how}{self._last_words()}"

    def _last_words(self) -> str:
        # A process that the command left behind may hold standard error open.
        self._listener.join(_BROKEN_S)
        lines = [line.strip() for line in self._said.decode("utf-8", "replace").splitlines()]
        said = " / ".join(line for line in lines[-_SAID_LINES:] if line)
        return f" and said: {said}" if said else " and said nothing"

    def end(self) -> None:
        """End the command and all that it started. Raises nothing."""
        with contextlib.suppress(OSError):
            os.killpg(self._process.pid, signal.SIGTERM)
        try:
            self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(OSError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def open_sink(address: Address, interrupt: Interrupt, *, idle_s: float) -> Sink:
    """Return where a stream to `address` goes. Raises HostError if that cannot be had."""
    match address:
        case FileAddress():
            return _open_file_sink(address, interrupt, idle_s)
        case ExecAddress():
            child = Child(address, writes=False)
            return PipeSink(address, child.take_pipe(), child, interrupt, idle_s)
        case FdAddress():
            return PipeSink(address, take(address), None, interrupt, idle_s)
    raise AssertionError(f"{address} is a connection")


def _open_file_sink(address: FileAddress, interrupt: Interrupt, idle_s: float) -> Sink:
    if address.offset:
        return PlaceInFile(address)
    with _named(address):
        output = examine_output(address.path)
        if output.stream:  # a FIFO, /dev/null: written to, never replaced
            return PipeSink(address, open_stream(output), None, interrupt, idle_s)
        return FileSink(address)


def open_source(address: Address) -> tuple[int, Child | None]:
    """Return the descriptor that a stream comes from, and the command that makes it.

    Raises HostError if that cannot be had.
    """
    match address:
        case FileAddress():
            return _open_file(address), None
        case ExecAddress():
            child = Child(address, writes=True)
            return child.take_pipe(), child
        case FdAddress():
            return take(address), None
    raise AssertionError(f"{address} is a connection")


def _open_file(address: FileAddress) -> int:
    try:
        # A FIFO without a writer would block here, where nothing could end the wait.
        descriptor = os.open(address.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise HostError(f"{address}: cannot be opened: {error.strerror}") from error
    try:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise HostError(f"{address}: cannot be opened: it is a directory; give a file name")
        if address.offset:
            os.lseek(descriptor, address.offset, os.SEEK_SET)
    except OSError as error:
        os.close(descriptor)
        raise HostError(f"{address}: cannot be opened: {error.strerror}") from error
    except HostError:
        os.close(descriptor)
        raise
    return descriptor
