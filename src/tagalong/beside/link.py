"""The client of the library in the VMM's process.

One request at a time, from any thread. A library that answers nonsense, or not at all, ends the
link and nothing else: the VMM and its guest are never waited for without a limit.
"""

import errno
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from tagalong.beside import link_format
from tagalong.beside.link_format import (
    Harvest,
    Harvested,
    LinkOperation,
    LinkState,
    MemorySlot,
    VcpuRegisters,
)
from tagalong.binary.layout import MalformedError
from tagalong.errors import HostError
from tagalong.memory import PageBitmap
from tagalong.mte import PACKED_RATIO

_ANSWER_S: Final = 60.0

# Guest RAM that one request is about: so little that a limit of time is kept between two.
_REQUEST_BYTES: Final = link_format.MAX_CHOSEN_BYTES // 4

_T = TypeVar("_T")

_EXPLAINED = {
    errno.EBUSY: "the kernel writes no tags while the VM's memory is dirty-logged: a migration "
    "from here is under way",
    errno.ENOENT: "the VMM has removed this memory slot",
    errno.ENODEV: "the VMM has no VM yet",
    errno.EOPNOTSUPP: "the library in the VMM's process is of another release",
}
_EXPLAINED_BY_OPERATION = {
    LinkOperation.HARVEST: {
        errno.EBUSY: "a vCPU is in the guest although its VMM says that it has stopped: nothing "
        "was handed over",
    },
    LinkOperation.READ_REGISTERS: {
        errno.EBUSY: "a vCPU is in the guest: it was continued meanwhile",
        errno.ENOENT: "the VM has no such vCPU",
    },
}


class LibraryLink:
    """A connection to the library that listens at `path`.

    Raises HostError if none listens there; so does every method if the link broke, or KVM refuses.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(_ANSWER_S)
        try:
            self._socket.connect(str(path))
        except OSError as error:
            self._socket.close()
            raise HostError(
                f"cannot reach the library in the VMM's process at {path}: "
                f"{error.strerror or error}"
            ) from error

    def close(self) -> None:
        """End the link. Safe to call twice."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def state(self) -> LinkState:
        """Return what is known of the VM now."""
        return self._parsed(self._ask(LinkOperation.STATE), link_format.decode_state)

    def slots(self, page_bytes: int) -> tuple[MemorySlot, ...]:
        """Return the VM's memory slots, in ascending order of gpa."""
        answer = self._ask(LinkOperation.SLOTS)
        return self._parsed(answer, lambda payload: link_format.decode_slots(payload, page_bytes))

    def start_log(self) -> None:
        """Owe the tags of all pages from now on: see docs/design/beside.md."""
        self._ask(LinkOperation.START_LOG)

    def stop_log(self) -> None:
        """Forget what is owed."""
        self._ask(LinkOperation.STOP_LOG)

    def hold(self, held: bool) -> LinkState:
        """Keep the vCPUs out of the guest from their next entry on, or release them."""
        return self._parsed(
            self._ask(LinkOperation.HOLD, argument=int(held)), link_format.decode_state
        )

    def harvest(self, slot: int, page_count: int, page_bytes: int, kind: Harvest) -> Harvested:
        """Return the pages of a slot whose tags are to be sent now; they are owed no more."""
        answer = self._ask(LinkOperation.HARVEST, slot=slot, argument=kind, page_count=page_count)
        return self._parsed(
            answer, lambda payload: link_format.decode_harvest(payload, page_count, page_bytes)
        )

    def populated(self, slot: int, page_count: int) -> PageBitmap:
        """Return the pages of a slot that may hold anything. Fills no hole."""
        answer = self._ask(LinkOperation.POPULATED, slot=slot, page_count=page_count)
        return self._parsed(answer, lambda payload: link_format.decode_bitmap(payload, page_count))

    def read_tags(
        self,
        slot: int,
        pages: NDArray[np.int64],
        page_bytes: int,
        out: NDArray[np.uint8],
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """Read the packed tags of pages of a slot, ascending, into `out`, a row per page.

        `check` is called before each request, and may raise.
        """
        self._read_rows(LinkOperation.READ_TAGS, slot, pages, page_bytes, out, check)

    def read_data(
        self, slot: int, pages: NDArray[np.int64], page_bytes: int, out: NDArray[np.uint8]
    ) -> None:
        """Read the data of pages of a slot, ascending, into `out`, a row of bytes per page.

        Fills no hole if only populated pages are asked for.
        """
        self._read_rows(LinkOperation.READ_DATA, slot, pages, page_bytes, out)

    def read_registers(self, vcpu: int) -> VcpuRegisters:
        """Return all registers of a vCPU, by its number. No vCPU may be in the guest."""
        return self._parsed(
            self._ask(LinkOperation.READ_REGISTERS, argument=vcpu), link_format.decode_registers
        )

    def write_tags(
        self, slot: int, pages: NDArray[np.int64], page_bytes: int, packed: NDArray[np.uint8]
    ) -> None:
        """Set the packed tags of pages of a slot; `packed` has a row per page."""
        at = 0
        for part in _within_range(pages, page_bytes):
            rows = np.ascontiguousarray(packed[at : at + part.size])
            assert rows.shape[1] == page_bytes // PACKED_RATIO  # noqa: S101 (the caller's)
            self._ask_about(LinkOperation.WRITE_TAGS, slot, part, rows.tobytes())
            at += part.size

    def _read_rows(
        self,
        operation: LinkOperation,
        slot: int,
        pages: NDArray[np.int64],
        page_bytes: int,
        out: NDArray[np.uint8],
        check: Callable[[], None] = lambda: None,
    ) -> None:
        at = 0
        for part in _within_range(pages, page_bytes):
            check()
            rows = out[at : at + part.size]
            self._ask_about(operation, slot, part, into=rows.data.cast("B"))
            at += part.size

    def _ask_about(
        self,
        operation: LinkOperation,
        slot: int,
        pages: NDArray[np.int64],
        tags: bytes = b"",
        into: memoryview | None = None,
    ) -> None:
        first, count = int(pages[0]), int(pages[-1] - pages[0]) + 1
        choice = link_format.encode_choice(first, pages, count)
        head = link_format.encode_request(
            operation,
            slot=slot,
            first_page=first,
            page_count=count,
            payload_bytes=len(choice) + len(tags),
        )
        self._exchange(operation, head + choice + tags, into)

    def _ask(self, operation: LinkOperation, **fields: int) -> bytes:
        """Return the payload of the reply. Raises HostError."""
        return bytes(self._exchange(operation, link_format.encode_request(operation, **fields)))

    def _exchange(
        self, operation: LinkOperation, request: bytes, into: memoryview | None = None
    ) -> memoryview:
        """Return the payload of the reply; it fills `into` if that is given. Raises HostError."""
        with self._lock:
            try:
                self._socket.sendall(request)
                head = self._receive(memoryview(bytearray(link_format.REPLY.size)))
                status, size_bytes = self._parsed(bytes(head), link_format.decode_reply)
                target = memoryview(bytearray(size_bytes)) if into is None or status else into
                if len(target) != size_bytes:
                    raise self._broken(
                        f"{size_bytes:#x} bytes for {operation.name}, not {len(target):#x}"
                    )
                answer = self._receive(target)
            except OSError as error:
                raise self._broken(str(error.strerror or error)) from error
        if status:
            explained = _EXPLAINED_BY_OPERATION.get(operation, {}).get(status)
            reason = explained or _EXPLAINED.get(status, os.strerror(status))
            raise HostError(f"the VMM's process refused {operation.name}: {reason}")
        return answer

    def _receive(self, target: memoryview) -> memoryview:
        """Fill all of `target` and return it."""
        done = 0
        while done < len(target):
            count = self._socket.recv_into(target[done:])
            if not count:
                raise OSError(errno.ECONNRESET, "it was closed")
            done += count
        return target

    def _parsed(self, payload: bytes, parse: Callable[[bytes], _T]) -> _T:
        try:
            return parse(payload)
        except MalformedError as error:
            raise self._broken(str(error)) from error

    def _broken(self, why: str) -> HostError:
        self.close()
        return HostError(f"lost the library in the VMM's process ({self._path}): {why}")


def _within_range(pages: NDArray[np.int64], page_bytes: int) -> Iterator[NDArray[np.int64]]:
    """Yield ascending pages in parts that one request may be about."""
    most = _REQUEST_BYTES // page_bytes
    while pages.size:
        within = int(np.searchsorted(pages, pages[0] + link_format.MAX_RANGE_PAGES))
        stop = min(most, within)
        yield pages[:stop]
        pages = pages[stop:]
