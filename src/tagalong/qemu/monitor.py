"""QEMU's monitor, for one who looks at a guest: pauses it, asks for registers and the memory map.

Registers come from QEMU's own dump of a single page, into a memfd that it is given: a core with all
vCPUs' notes, in the form that we read anyway. The memory map is text for people in any QEMU, so it
is read strictly. Source: QEMU qapi/{misc,dump}.json, system/memory.c (mtree_print_flatview).
"""

import asyncio
import fcntl
import os
import re
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, TypeVar

from qemu.qmp import ExecuteError, QMPClient, QMPError

from tagalong.core import CoreVcpu, open_core
from tagalong.errors import CommandError, ControlError, CoreError, TagalongError
from tagalong.printable import one_line

_TIMEOUT_S: Final = 60.0
_MAX_LISTING: Final = 1 << 20
_FD_NAME: Final = "tagalong-registers"
_PAGE_BYTES: Final = 4096
_BLOCK: Final = re.compile(
    r" *(\S.*?) +\d+ [KMGT]iB +0x[0-9a-f]+ +0x([0-9a-f]+) +0x[0-9a-f]+ +0x([0-9a-f]+)(?: +\w+)?"
)
_RANGE: Final = re.compile(
    r" *([0-9a-f]{16})-([0-9a-f]{16}) \(prio -?\d+, ram\): (\S+)(?: @([0-9a-f]{16}))?(?: KVM)?"
)

T = TypeVar("T")


class _BoundedMonitor(QMPClient):
    """The package's client with a bound on one message."""

    readbuflen = 2 << 20


class QemuMonitor:
    """A connection to QEMU's QMP socket; made by `connect`. For one thread."""

    def __init__(self, client: QMPClient, loop: asyncio.AbstractEventLoop, path: Path) -> None:
        self._client = client
        self._loop = loop
        self._path = path
        # The package's own listener would hold every event that QEMU ever sends.
        client.events.event_filter = lambda _: False

    def execute(self, command: str, **arguments: object) -> Any:
        """Run a command and return its value. Raises CommandError, ControlError."""
        return _run(self._loop, self._client.execute(command, arguments or None), self._path)

    def is_running(self) -> bool:
        """Return whether the guest runs."""
        status = self.execute("query-status")
        if not isinstance(status, Mapping) or not isinstance(status.get("running"), bool):
            raise ControlError(f"QEMU's monitor at {self._path} gives a status that makes no sense")
        return bool(status["running"])

    @contextmanager
    def paused(self) -> Iterator[bool]:
        """Keep the guest paused for a block; yield whether it ran. It runs on in any case."""
        was_running = self.is_running()
        if was_running:
            self.execute("stop")
        try:
            yield was_running
        finally:
            if was_running:
                self._resume()

    def _resume(self) -> None:
        try:
            self.execute("cont")
        except ControlError as error:
            error.add_note("The guest is still paused: let it run with `cont` on QEMU's monitor.")
            raise

    def registers(self, gpa: int) -> tuple[CoreVcpu, ...]:
        """Return the registers of all vCPUs; `gpa`: a page of RAM, which QEMU dumps with them.

        Raises CommandError if QEMU refuses, CoreError if its core makes no sense.
        """
        fd = os.memfd_create(_FD_NAME, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            self._loop.call_soon(self._client.send_fd_scm, fd)
            self.execute("getfd", fdname=_FD_NAME)
            self.execute(
                "dump-guest-memory",
                paging=False, protocol=f"fd:{_FD_NAME}", begin=gpa, length=_PAGE_BYTES,
            )  # fmt: skip
            # QEMU has the descriptor, too: what we map must not be cut short by it.
            try:
                fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
            except OSError as error:
                raise ControlError(
                    f"QEMU's monitor at {self._path} has sealed the file that registers go into"
                ) from error
            with open_core(f"/proc/self/fd/{fd}") as core:
                return core.vcpus
        finally:
            os.close(fd)

    def ranges_of(self, address: int, size_bytes: int) -> list[tuple[int, int, int]]:
        """Return where the guest sees the RAM that QEMU has mapped at `address`.

        As (gpa, size, offset in that RAM), in order. Raises CoreError if QEMU's listings do not
        have it.
        """
        name = next(
            (found[1] for found in map(_BLOCK.fullmatch, self._listing("info ramblock"))
             if found and (int(found[3], 16), int(found[2], 16)) == (address, size_bytes)),
            None,
        )  # fmt: skip
        found = {
            (int(each[1], 16), int(each[2], 16) + 1 - int(each[1], 16), int(each[4] or "0", 16))
            for each in map(_RANGE.fullmatch, self._listing("info mtree -f"))
            if each and each[3] == name
        }
        if not found:
            raise CoreError(
                f"QEMU's monitor at {self._path} does not know the RAM of the process: is it "
                "another QEMU's?"
            )
        return sorted(found)

    def _listing(self, command: str) -> list[str]:
        text = self.execute("human-monitor-command", **{"command-line": command})
        if not isinstance(text, str) or len(text) > _MAX_LISTING:
            raise ControlError(f"QEMU's monitor at {self._path} answers {command} with no text")
        return text.splitlines()


@contextmanager
def connect(path: Path) -> Iterator[QemuMonitor]:
    """Yield a connection to the QMP socket at `path`. Raises ControlError."""
    loop, client = asyncio.new_event_loop(), _BoundedMonitor("tagalong")
    try:
        _run(loop, client.connect(str(path)), path)
        try:
            yield QemuMonitor(client, loop, path)
        finally:
            with suppress(TagalongError):
                _run(loop, client.disconnect(), path)
    finally:
        loop.close()


def _run(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T], path: Path) -> T:
    async def bounded() -> T:
        async with asyncio.timeout(_TIMEOUT_S):
            return await work

    try:
        return loop.run_until_complete(bounded())
    except ExecuteError as error:
        raise CommandError(f"QEMU refused: {one_line(str(error))}") from error
    except TimeoutError as error:
        raise ControlError(
            f"QEMU's monitor at {path} has not answered in {_TIMEOUT_S:.0f} s: another client may "
            "be connected to it; give it a monitor of its own (-qmp)"
        ) from error
    except (QMPError, OSError, EOFError) as error:
        raise ControlError(f"QEMU's monitor at {path} failed: {one_line(str(error))}") from error
