"""Replays a kept stream: a channel to a peer that sends what a file, a command or a pipe has.

A regular file is read by the channel itself. Else the peer is a thread that moves bytes. What the
peer hears is thrown away.
"""

import os
import select
import socket
import stat
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tagalong.errors import HostError
from tagalong.migrate.transport.address import Address
from tagalong.migrate.transport.channel import MAX_BUFFERS, Buffers, Channel, PageChannel, drop
from tagalong.migrate.transport.sink import Child, open_source
from tagalong.write_behind import PageDigest

_BUFFER_BYTES: Final = 4 << 20
_CHUNK_BYTES: Final = 1 << 20

_AHEAD_BYTES: Final = 64 << 20

# How long a command may take to end after its output has.
_END_S: Final = 1.0


def stream_pair() -> tuple[socket.socket, socket.socket]:
    """Return two connected sockets, each with room for much of a batch."""
    pair = socket.socketpair()
    for sock in pair:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
    return pair


class LocalChannel(Channel):
    """A channel to a peer that is a thread of this process."""

    def __init__(self, sock: socket.socket, name: str, *, idle_s: float) -> None:
        super().__init__(sock, name, idle_s=idle_s)
        self._end_cause: HostError | None = None

    def explain_end(self, cause: HostError) -> None:
        """Say why the peer is about to close its end; the first cause counts."""
        self._end_cause = self._end_cause or cause

    @property
    def end_cause(self) -> HostError | None:
        """As Channel.end_cause."""
        return self._end_cause


class FileChannel(LocalChannel, PageChannel):
    """A channel to a peer that sends what a regular file has, from where its descriptor stands.

    Takes over the descriptor. The file is read into where its bytes belong, large parts by as many
    threads as this host has processors; what this end sends is thrown away.
    """

    def __init__(self, descriptor: int, name: str) -> None:
        near, self._far = socket.socketpair()
        super().__init__(near, name, idle_s=float("inf"))
        self._descriptor = descriptor
        self._at = os.lseek(descriptor, 0, os.SEEK_CUR)
        self._pool: ThreadPoolExecutor | None = None

    def send(self, buffers: Buffers, *, deadline: float = float("inf")) -> None:
        """Throw away what a kept stream does not hear."""
        del buffers, deadline

    def receive_into(self, target: memoryview, *, deadline: float = float("inf")) -> int:
        """As Channel."""
        del deadline
        count = self._read([target], self._at)
        self._at += count
        return count

    def is_readable(self) -> bool:
        """Return True: a file never keeps its reader waiting."""
        return True

    def finish(self, deadline: float) -> None:
        """Do nothing: nothing was said."""
        del deadline

    def move_pages(
        self, pieces: Sequence[memoryview], page_bytes: int, digest: PageDigest
    ) -> list[NDArray[np.uint64]]:
        """As PageChannel: fill all pieces from the file.

        Once it has returned or raised, no thread writes to them any more.
        """
        if self._pool is None:
            self._pool = ThreadPoolExecutor(os.cpu_count() or 1, "file-reader")

        def fill(at: int, group: list[memoryview]) -> list[NDArray[np.uint64]]:
            self._fill(at, group)
            return [digest(np.frombuffer(piece, np.uint8)) for piece in group]

        # Threads that read side by side are no sequence to the kernel: it would not read ahead.
        size = sum(len(piece) for piece in pieces)
        with suppress(OSError):
            ahead = size + _AHEAD_BYTES
            os.posix_fadvise(self._descriptor, self._at, ahead, os.POSIX_FADV_WILLNEED)
        at, jobs = self._at, []
        try:
            for group in _groups(pieces, page_bytes):
                jobs.append(self._pool.submit(fill, at, group))
                at += sum(len(piece) for piece in group)
            wait(jobs)
        except BaseException:
            self._end_reading()
            raise
        digests = [each for job in jobs for each in job.result()]
        self._at = at
        return digests

    def _fill(self, at: int, pieces: list[memoryview]) -> None:
        left = list(pieces)
        while left:
            count = self._read(left, at)
            if not count:
                raise EOFError
            at += count
            drop(left, count)

    def _read(self, targets: list[memoryview], at: int) -> int:
        try:
            return os.preadv(self._descriptor, targets, at)
        except OSError as error:
            raise HostError(f"{self.name}: cannot be read: {error.strerror}") from error

    def _end_reading(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def close(self) -> None:
        """As Channel."""
        self._end_reading()
        if not self.is_closed:
            os.close(self._descriptor)
            self._far.close()
        super().close()


def _groups(pieces: Sequence[memoryview], page_bytes: int) -> Iterator[list[memoryview]]:
    """Yield the pieces in order, in groups of whole pages that are worth a read each."""
    group: list[memoryview] = []
    size = 0
    most = _CHUNK_BYTES // page_bytes * page_bytes
    for piece in pieces:
        left = piece
        while left:
            part = left[: most - size]
            group.append(part)
            size += len(part)
            left = left[len(part) :]
            if size == most or len(group) == MAX_BUFFERS:
                yield group
                group, size = [], 0
    if group:
        yield group


def replay(address: Address, *, idle_s: float) -> Channel:
    """Return a channel to a peer that sends what was kept at `address`.

    Raises HostError if that cannot be opened.
    """
    descriptor, child = open_source(address)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return FileChannel(descriptor, str(address))
    near, far = stream_pair()
    far.setblocking(False)
    channel = LocalChannel(near, str(address), idle_s=idle_s)
    player = _Player(descriptor, child, far, channel)
    threading.Thread(target=player.run, name="player", daemon=True).start()
    return channel


class _Player:
    """Moves bytes from a descriptor to a socket, and throws away what comes back."""

    def __init__(
        self, descriptor: int, child: Child | None, sock: socket.socket, channel: LocalChannel
    ) -> None:
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._child = child
        self._sock = sock
        self._channel = channel
        self._left = memoryview(b"")
        self._is_at_end = False

    def run(self) -> None:
        try:
            while self._step():
                pass
        except OSError as error:
            # Too late for a listener that has left.
            self._explain(f"cannot be read: {error.strerror}")
        finally:
            os.close(self._descriptor)
            self._sock.close()
            if self._child is not None:
                self._child.end()

    def _explain(self, why: str) -> None:
        self._channel.explain_end(HostError(f"{self._channel.name}: {why}"))

    def _step(self) -> bool:
        """Wait, then move what can be moved; return False once the listener has left."""
        poller = select.poll()
        poller.register(self._sock, select.POLLIN | (select.POLLOUT if self._left else 0))
        if not self._left and not self._is_at_end:
            poller.register(self._descriptor, select.POLLIN)
        ready = dict(poller.poll())
        events = ready.get(self._sock.fileno(), 0)
        if events & select.POLLIN and not self._sock.recv(_CHUNK_BYTES):
            return False
        if events & (select.POLLHUP | select.POLLERR) and not events & select.POLLIN:
            return False
        if events & select.POLLOUT:
            self._left = self._left[self._sock.send(self._left) :]
        if self._descriptor in ready:
            self._read()
        return True

    def _read(self) -> None:
        data = os.read(self._descriptor, _CHUNK_BYTES)
        self._left = memoryview(data)
        if not data:
            self._is_at_end = True
            # Before the end can be seen: a command that failed has the reason.
            if self._child is not None and (verdict := self._child.verdict(_END_S)):
                self._explain(verdict)
            self._sock.shutdown(socket.SHUT_WR)
