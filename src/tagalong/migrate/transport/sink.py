"""Where a one-way stream ends up, and where it comes from: files, commands, pipes."""

import contextlib
import os
import select
import signal
import subprocess
from io import FileIO
from pathlib import Path
from typing import IO, Final, Protocol

from tagalong.errors import HostError
from tagalong.migrate.transport.address import Address, ExecAddress, FdAddress, FileAddress
from tagalong.migrate.transport.channel import Interrupt, wait_ready
from tagalong.migrate.transport.inherited import take

_SHELL: Final = "/bin/sh"
_OWNER_ONLY: Final = 0o600
_EXIT_S: Final = 300.0
_NEVER: Final = float("inf")
_PART: Final = ".part"


class Sink(Protocol):
    """Takes a stream. After `discard`, nothing that could pass for a whole one is left."""

    @property
    def is_revocable(self) -> bool:
        """Return whether `discard` takes back even a stream that is complete."""
        ...

    def write(self, data: memoryview) -> None:
        """Write all of `data`. Raises HostError."""
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


class FileSink:
    """A file that gets its name when it is complete; in place, if the stream has an offset.

    Raises HostError if it cannot be created. A file is its owner's only: it holds a guest.
    """

    is_revocable = True

    def __init__(self, address: FileAddress) -> None:
        self._address = address
        path = address.path
        self._written = path if address.offset else path.with_name(path.name + _PART)
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
        try:
            self._file = FileIO(os.open(self._written, flags, _OWNER_ONLY), "w")
            self._file.truncate(address.offset)
            self._file.seek(address.offset)
        except OSError as error:
            raise HostError(f"{address}: cannot create the file: {error.strerror}") from error

    def write(self, data: memoryview) -> None:
        """As Sink."""
        try:
            while data:
                data = data[self._file.write(data) :]
        except OSError as error:
            raise HostError(f"{self._address}: cannot write: {error.strerror}") from error

    def secure(self) -> None:
        """As Sink."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise HostError(f"{self._address}: cannot write: {error.strerror}") from error

    def complete(self) -> None:
        """As Sink."""
        self.secure()
        try:
            if self._written != self._address.path:
                self._written.rename(self._address.path)
                self._written = self._address.path
            _sync_folder(self._written.parent)
            self._file.close()
        except OSError as error:
            raise HostError(f"{self._address}: cannot be completed: {error.strerror}") from error

    def discard(self) -> None:
        """As Sink."""
        with contextlib.suppress(OSError):
            os.truncate(self._written, self._address.offset)
            if not self._address.offset:
                self._written.unlink()
        with contextlib.suppress(OSError):
            self._file.close()


def _sync_folder(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


class PipeSink:
    """The writing end of a pipe, and the command that reads from it if there is one.

    What went in cannot be taken back. `interrupt` is called during waits.
    """

    is_revocable = False

    def __init__(
        self, address: Address, descriptor: int, child: "Child | None", interrupt: Interrupt
    ) -> None:
        self._address = address
        self._file = FileIO(descriptor, "w")
        self._child = child
        self._interrupt = interrupt
        os.set_blocking(descriptor, False)

    def write(self, data: memoryview) -> None:
        """As Sink."""
        while data:
            try:
                count = self._file.write(data)
                if count is None:
                    wait_ready(self._file.fileno(), select.POLLOUT, _NEVER, self._interrupt)
                else:
                    data = data[count:]
            except OSError as error:
                ended = f" ({said})" if self._child and (said := self._child.verdict(0)) else ""
                raise HostError(
                    f"{self._address}: cannot write: {error.strerror}{ended}"
                ) from error

    def secure(self) -> None:
        """As Sink: a pipe keeps nothing."""

    def complete(self) -> None:
        """As Sink: the command must end well."""
        self._file.close()
        if self._child is not None and (said := self._child.verdict(_EXIT_S)):
            raise HostError(f"{self._address}: {said}")

    def discard(self) -> None:
        """As Sink."""
        with contextlib.suppress(OSError):
            self._file.close()
        if self._child is not None:
            self._child.end()


class Child:
    """A shell command that one end of our stream goes through."""

    def __init__(self, address: ExecAddress, *, writes: bool) -> None:
        """Start it; it gets a pipe to its standard output if it `writes`, else to its input.

        Raises HostError if it cannot be started.
        """
        pipe, nothing = subprocess.PIPE, subprocess.DEVNULL
        try:
            # The command is the operator's own, who could run it anyway.
            self._process = subprocess.Popen(
                [_SHELL, "-c", address.command],
                stdin=nothing if writes else pipe,
                stdout=pipe if writes else nothing,
                start_new_session=True,
            )
        except OSError as error:
            raise HostError(f"{address}: cannot be started: {error.strerror}") from error
        self._writes = writes

    def take_pipe(self) -> int:
        """Return the descriptor of our end of the pipe, which is the caller's to close."""
        end: IO[bytes] | None = self._process.stdout if self._writes else self._process.stdin
        assert end is not None  # noqa: S101 (asked for with PIPE)
        descriptor = os.dup(end.fileno())
        end.close()
        return descriptor

    def verdict(self, timeout_s: float) -> str | None:
        """Return what is wrong with how the command ended, None if nothing is or it runs."""
        try:
            status = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return f"the command did not end in {timeout_s:.0f} s" if timeout_s else None
        if status < 0:
            return f"the command was ended by {signal.Signals(-status).name}"
        return f"the command ended with status {status}" if status else None

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


def open_sink(address: Address, interrupt: Interrupt) -> Sink:
    """Return where a stream to `address` goes. Raises HostError if that cannot be had."""
    match address:
        case FileAddress():
            return FileSink(address)
        case ExecAddress():
            child = Child(address, writes=False)
            return PipeSink(address, child.take_pipe(), child, interrupt)
        case FdAddress():
            return PipeSink(address, take(address), None, interrupt)
    raise AssertionError(f"{address} is a connection")


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
        descriptor = os.open(address.path, os.O_RDONLY | os.O_CLOEXEC)
        if address.offset:
            os.lseek(descriptor, address.offset, os.SEEK_SET)
    except OSError as error:
        raise HostError(f"{address}: cannot be opened: {error.strerror}") from error
    return descriptor
