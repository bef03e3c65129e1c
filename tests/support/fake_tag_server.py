"""The library in a VMM's process, without a VMM: docs/formats/beside-link.md over a real socket.

Pages and tags are arrays here; KVM's dirty bitmap and what is owed follow native/beside/vm.c. A
test plays the guest and the VMM by the methods.
"""

import errno
import socket
import struct
import threading
from contextlib import suppress
from pathlib import Path

import numpy as np

from tagalong.beside.link import LibraryLink
from tagalong.beside.link_format import (
    MAX_HARVEST_TAG_BYTES,
    VERSION,
    Harvest,
    LinkOperation,
    MemorySlot,
    SlotFlag,
    VmFlag,
)

PAGE = 4096
ROW = PAGE // 32
GPA = 0x4000_0000

_REQUEST = struct.Struct("<HHIIIQQ")


class FakeLibrary:
    """Serves one slot of `pages` at `at`, a path or a socket that listens; `held` as a
    destination's."""

    def __init__(self, at: Path | socket.socket, *, pages: int = 200, held: bool = False) -> None:
        self.path = Path(at.getsockname()) if isinstance(at, socket.socket) else at
        self.pages = pages
        self.tags = np.zeros((pages, ROW), np.uint8)
        self.populated = np.ones(pages, np.bool_)
        self.dirty = np.zeros(pages, np.bool_)
        self.owed = np.zeros(pages, np.bool_)
        self.stolen = np.zeros(pages, np.bool_)
        self.logged = False
        self.flags = VmFlag.HAS_VM | VmFlag.HAS_MTE | VmFlag.MANUAL_PROTECT
        self.slots = [MemorySlot(3, SlotFlag(0), GPA, pages * PAGE)]
        self.data = np.zeros((pages, PAGE), np.uint8)
        self.registers: list[dict[int, int]] = [{}, {}]
        self.mp_states = [0, 5]
        self.vcpus = 2
        self.running = 0
        self.runs = 7
        self.held = held
        self.garble = b""  # sent instead of the next reply
        self.refusals: dict[int, int] = {}  # errno by operation
        self._links: list[LibraryLink] = []
        self._lock = threading.Lock()
        self._listener = at if isinstance(at, socket.socket) else _listen(at)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def link(self) -> LibraryLink:
        """Return the link to this library, which serves one client; closed with it."""
        if not self._links:
            self._links.append(LibraryLink(self.path))
        return self._links[0]

    def close(self) -> None:
        for link in self._links:
            link.close()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    # --- the guest and its VMM ---

    def log_on(self) -> None:
        with self._lock:
            self.logged, self.dirty[:] = True, True

    def clear(self, first: int = 0, stop: int | None = None) -> None:
        with self._lock:
            chosen = np.zeros(self.pages, np.bool_)
            chosen[first:stop] = self.dirty[first:stop]
            self.dirty[chosen] = False
            self.owed |= chosen

    def guest_writes(self, page: int, tag: int) -> None:
        with self._lock:
            if self.logged:
                self.dirty[page] = True
            self.tags[page] = tag * 0x11

    # --- the socket ---

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with client, suppress(OSError):
                while self._answer(client):
                    pass

    def _answer(self, client: socket.socket) -> bool:
        head = client.recv(_REQUEST.size, socket.MSG_WAITALL)
        if len(head) < _REQUEST.size:
            return False
        operation, _, size, slot, argument, first, count = _REQUEST.unpack(head)
        payload = client.recv(size, socket.MSG_WAITALL) if size else b""
        if self.garble:
            client.sendall(self.garble)
            return False
        with self._lock:
            status, reply = self._run(
                LinkOperation(operation), slot, argument, first, count, payload
            )
        client.sendall(struct.pack("<iI", -status, len(reply)) + reply)
        return True

    def _run(
        self,
        operation: LinkOperation,
        slot: int,
        argument: int,
        first: int,
        count: int,
        payload: bytes,
    ) -> tuple[int, bytes]:
        if operation in self.refusals:
            return self.refusals[operation], b""
        reply = b""
        match operation:
            case LinkOperation.STATE | LinkOperation.HOLD:
                if operation is LinkOperation.HOLD:
                    self.held = bool(argument)
                reply = self._state()
            case LinkOperation.SLOTS:
                reply = b"".join(
                    struct.pack("<IIQQ", it.number, it.flags, it.gpa, it.size_bytes)
                    for it in self.slots
                )
            case LinkOperation.START_LOG | LinkOperation.STOP_LOG:
                self.owed[:] = operation is LinkOperation.START_LOG
            case LinkOperation.HARVEST:
                if argument == Harvest.FINAL and self.running:
                    return errno.EBUSY, b""
                reply = self.reply_to_harvest(Harvest(argument))
            case LinkOperation.POPULATED:
                reply = _bitmap(self.populated[first : first + count])
            case LinkOperation.READ_REGISTERS:
                return self._read_registers(argument)
            case _:
                return self._copy(operation, slot, first, count, payload)
        return 0, reply

    def reply_to_harvest(self, kind: Harvest = Harvest.FINAL) -> bytes:
        """Return the state, the pages that are taken, and their tags if they are few."""
        taken = self._harvest(kind) & self.populated
        tags = self.tags[taken].tobytes()
        return self._state() + _bitmap(taken) + tags * (len(tags) <= MAX_HARVEST_TAG_BYTES)

    def _harvest(self, kind: Harvest) -> np.ndarray:
        if kind is Harvest.PROTECTING and self.logged:
            self.owed |= self.dirty
            self.stolen |= self.dirty
            self.dirty[:] = False
        unprotected = self.dirty if self.logged else np.ones(self.pages, np.bool_)
        if kind is Harvest.FINAL:
            taken, self.owed = self.owed | unprotected, np.zeros(self.pages, np.bool_)
        else:
            taken, self.owed = self.owed & ~unprotected, self.owed & unprotected
        return taken

    def _copy(
        self, operation: LinkOperation, slot: int, first: int, count: int, payload: bytes
    ) -> tuple[int, bytes]:
        if slot != self.slots[0].number or first + count > self.pages:
            return errno.ERANGE, b""
        words = -(-count // 64) * 8
        bits = np.unpackbits(np.frombuffer(payload[:words], np.uint8), bitorder="little")
        chosen = first + np.flatnonzero(bits[:count])
        if operation is LinkOperation.READ_DATA:
            assert self.populated[chosen].all(), "a hole was filled"
            return 0, self.data[chosen].tobytes()
        if operation is LinkOperation.READ_TAGS:
            return 0, self.tags[chosen].tobytes()
        self.tags[chosen] = np.frombuffer(payload[words:], np.uint8).reshape(-1, ROW)
        return 0, b""

    def _read_registers(self, vcpu: int) -> tuple[int, bytes]:
        if self.running:
            return errno.EBUSY, b""
        values = self.registers[vcpu]
        return 0, struct.pack("<II", self.mp_states[vcpu], len(values)) + b"".join(
            struct.pack("<Q", name) + value.to_bytes(1 << (name >> 52 & 15), "little")
            for name, value in values.items()
        )

    def _state(self) -> bytes:
        flags = self.flags | (VmFlag.HELD if self.held else 0)
        return struct.pack(
            "<IIIIIIQQ", VERSION, flags, PAGE, len(self.slots), self.vcpus, self.running,
            self.runs, 5 + len(self.slots),
        )  # fmt: skip


def _listen(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(4)
    return listener


def _bitmap(flags: np.ndarray) -> bytes:
    packed = np.packbits(flags, bitorder="little").tobytes()
    return packed + bytes(-len(packed) % 8)
