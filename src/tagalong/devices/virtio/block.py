"""A disk (section 5.2), backed by a raw image.

Requests are served by a few threads, in no order: what a driver needs in order, it waits for or
flushes. One queue: the interpreter of this process runs one thread at a time, so further queues
would add none of the speed for which they exist.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import TYPE_CHECKING, ClassVar, Final

from tagalong._lazy import module_when_used
from tagalong.binary.layout import Layout
from tagalong.devices.virtio.abi import DeviceId
from tagalong.devices.virtio.described import VirtioConfig, config_of
from tagalong.devices.virtio.image import SECTOR_BYTES, Image
from tagalong.devices.virtio.ram import RingError
from tagalong.devices.virtio.telling import OnceASecond
from tagalong.errors import UsageError
from tagalong.machine.state import DISK_KIND

if TYPE_CHECKING:
    import logging

    from tagalong.devices.virtio.chain import Buffers, Chain, RequestBatch
    from tagalong.devices.virtio.function import Port
    from tagalong.machine import DeviceDescription
else:
    logging = module_when_used("logging")

QUEUE_SIZE: Final = 256
SERIAL_BYTES: Final = 20

_THREADS: Final = 4
DISK_LAYOUT: Final = Layout(("sectors", "u64"), ("serial", SERIAL_BYTES))
_HEADER: Final = struct.Struct("<IIQ")
_SEGMENT: Final = struct.Struct("<QII")
# capacity, size_max, seg_max, geometry, blk_size, topology, writeback, num_queues, limits of
# discard and of write zeroes.
_CONFIG: Final = struct.Struct("<QIIHBBIBBHIBBHIIIIIB3x")
_HEADS, _TRACK_SECTORS, _MAX_CYLINDERS = 16, 63, 0xFFFF
_MAX_SEGMENTS: Final = 16
_MAX_DISCARD_SECTORS: Final = 1 << 22
# A file system without holes has each zero written.
_MAX_ZERO_SECTORS: Final = 1 << 16
_UNMAP: Final = 1


class BlockFeature(IntFlag):
    """Features of a disk (section 5.2.3)."""

    SEG_MAX = 1 << 2
    GEOMETRY = 1 << 4
    RO = 1 << 5
    BLK_SIZE = 1 << 6
    FLUSH = 1 << 9
    TOPOLOGY = 1 << 10
    DISCARD = 1 << 13
    WRITE_ZEROES = 1 << 14


_ALWAYS: Final = (
    BlockFeature.SEG_MAX
    | BlockFeature.GEOMETRY
    | BlockFeature.BLK_SIZE
    | BlockFeature.FLUSH
    | BlockFeature.TOPOLOGY
)
_WRITABLE: Final = BlockFeature.DISCARD | BlockFeature.WRITE_ZEROES


class RequestType(IntEnum):
    """What a request asks for (section 5.2.6)."""

    IN = 0
    OUT = 1
    FLUSH = 4
    GET_ID = 8
    DISCARD = 11
    WRITE_ZEROES = 13


class RequestStatus(IntEnum):
    """What became of a request: its last byte."""

    OK = 0
    IOERR = 1
    UNSUPP = 2


@dataclass(frozen=True)
class DiskError:
    """A failed access to an image: QMP's BLOCK_IO_ERROR. `operation`: "read" or "write"."""

    disk: str
    operation: str
    reason: str
    no_space: bool


ReportDiskError = Callable[[DiskError], None]


class _RefusedError(Exception):
    """A request that cannot be, as the guest learns by its status."""

    def __init__(self, status: RequestStatus) -> None:
        self.status = status
        super().__init__(status.name)


class BlockFunction:
    """A disk; implements VirtioFunction. `report` gets the errors of the image, in any thread.

    Raises UsageError if the image is not the disk that `description` says.
    """

    KIND: ClassVar = DISK_KIND

    device_id = DeviceId.BLOCK
    served_queues: Sequence[int] = (0,)
    threads = _THREADS
    most_at_once = 1  # what is quick must not wait for what is slow

    def __init__(
        self, description: DeviceDescription, image: Image, report: ReportDiskError
    ) -> None:
        described = disk_config(description)
        self._name = description.name
        self._image = image
        self._report = report
        self._sectors, self._serial = _own_part(description, described)
        _require_same(description.name, described, self._sectors, image)
        self.config = _config_space(self._sectors, described)
        self._port: Port | None = None
        self._errors = OnceASecond()
        self._handlers: dict[int, Callable[[int, Buffers, Buffers], int]] = {
            RequestType.IN: self._read,
            RequestType.OUT: self._write,
            RequestType.FLUSH: self._flush,
            RequestType.GET_ID: self._get_id,
            RequestType.DISCARD: self._discard,
            RequestType.WRITE_ZEROES: self._write_zeroes,
        }

    def attach(self, port: Port) -> None:
        """Take the transport."""
        self._port = port

    def write_config(self, offset: int, data: bytes) -> None:
        """Ignore it: no field can be written."""

    def supplied(self, queue: int) -> None:
        """Do nothing: all queues are served."""

    def serve(self, queue: int, batch: RequestBatch) -> None:
        """Carry out requests."""
        del queue
        for number, chain in enumerate(batch):
            batch.written[number] = self._serve(chain)

    def _serve(self, chain: Chain) -> int:
        """Carry out one request; return how many bytes were stored, its status included."""
        kind, _, sector = _HEADER.unpack(chain.readable.read(0, _HEADER.size))
        if not chain.writable.size_bytes:
            raise RingError(f"request {chain.head} has no byte for its status")
        room = chain.writable.size_bytes - 1
        source = chain.readable.part(_HEADER.size, chain.readable.size_bytes - _HEADER.size)
        target = chain.writable.part(0, room)
        written, status = self._carry_out(kind, sector, source, target)
        chain.writable.part(room, 1).write(bytes((status,)))
        return written + 1

    def _carry_out(
        self, kind: int, sector: int, source: Buffers, target: Buffers
    ) -> tuple[int, RequestStatus]:
        """Return how many bytes were stored to `target`, and the status."""
        try:
            if kind not in self._handlers:
                return 0, RequestStatus.UNSUPP
            return self._handlers[kind](sector, source, target), RequestStatus.OK
        except _RefusedError as refusal:
            return 0, refusal.status
        except OSError as error:
            operation = "read" if kind == RequestType.IN else "write"
            no_space = error.errno in (errno.ENOSPC, errno.EDQUOT)
            reason = error.strerror or str(error)
            self._tell(DiskError(self._name, operation, reason, no_space))
            return 0, RequestStatus.IOERR

    def _tell(self, error: DiskError) -> None:
        """Tell the operator of an error; of one that repeats, at most once a second."""
        untold = self._errors.due(error)
        if untold is None:
            return
        logging.getLogger(__name__).warning(
            "disk %s: %s failed: %s%s", error.disk, error.operation, error.reason, untold
        )
        self._report(error)

    def _read(self, sector: int, source: Buffers, target: Buffers) -> int:
        del source
        self._image.read(target, self._checked_offset(sector, target.size_bytes))
        return target.size_bytes

    def _write(self, sector: int, source: Buffers, target: Buffers) -> int:
        del target
        self._require_writable()
        self._image.write(source, self._checked_offset(sector, source.size_bytes))
        self._write_through()
        return 0

    def _flush(self, sector: int, source: Buffers, target: Buffers) -> int:
        del sector, source, target
        self._image.flush()
        return 0

    def _get_id(self, sector: int, source: Buffers, target: Buffers) -> int:
        del sector, source
        serial = self._serial[: target.size_bytes]
        target.write(serial)
        return len(serial)

    def _discard(self, sector: int, source: Buffers, target: Buffers) -> int:
        del sector, target
        for offset, length, flags in self._segments(source, _MAX_DISCARD_SECTORS):
            if flags:
                raise _RefusedError(RequestStatus.UNSUPP)
            self._image.discard(offset, length)
        self._write_through()
        return 0

    def _write_zeroes(self, sector: int, source: Buffers, target: Buffers) -> int:
        del sector, target
        for offset, length, flags in self._segments(source, _MAX_ZERO_SECTORS):
            if flags & ~_UNMAP:
                raise _RefusedError(RequestStatus.UNSUPP)
            self._image.write_zeroes(offset, length, may_unmap=bool(flags & _UNMAP))
        self._write_through()
        return 0

    def _segments(self, source: Buffers, most_sectors: int) -> list[tuple[int, int, int]]:
        """Return offset, length and flags of each range, once all are known to be right."""
        self._require_writable()
        count, rest = divmod(source.size_bytes, _SEGMENT.size)
        if rest or not 1 <= count <= _MAX_SEGMENTS:
            raise _RefusedError(RequestStatus.IOERR)
        found = []
        for sector, sectors, flags in _SEGMENT.iter_unpack(source.read()):
            if sectors > most_sectors:
                raise _RefusedError(RequestStatus.IOERR)
            length = sectors * SECTOR_BYTES
            found.append((self._checked_offset(sector, length), length, flags))
        return found

    def _checked_offset(self, sector: int, length_bytes: int) -> int:
        sectors, rest = divmod(length_bytes, SECTOR_BYTES)
        if rest or not sectors or sector + sectors > self._sectors:
            raise _RefusedError(RequestStatus.IOERR)
        return sector * SECTOR_BYTES

    def _require_writable(self) -> None:
        if self._image.is_read_only:
            raise _RefusedError(RequestStatus.IOERR)

    def _write_through(self) -> None:
        """Bring a write to the disk at once for a driver that never flushes (section 5.2.6.2)."""
        if self._port is not None and not self._port.features & BlockFeature.FLUSH:
            self._image.flush()

    # --- its life ---

    def reset(self) -> None:
        """Do nothing: the transport has all of the state."""

    def save(self) -> bytes:
        """Return nothing: requests are finished before anything is saved."""
        return b""

    def objection(self, state: bytes) -> str:
        """Return why load() would reject `state`."""
        return f"{len(state)} bytes behind the queues, expected 0" if state else ""

    def load(self, state: bytes) -> None:
        """Take nothing."""

    def pause(self) -> None:
        """Do nothing: no request is under way."""

    def resume(self) -> None:
        """Do nothing."""

    @property
    def is_active(self) -> bool:
        """Return whether the image is locked."""
        return self._image.is_active

    def activate(self) -> None:
        """Lock the image."""
        self._image.activate()

    def flush(self) -> None:
        """Bring all that was written to the disk."""
        self._image.flush_all()

    def inactivate(self) -> None:
        """Unlock the image."""
        self._image.inactivate()

    def close(self) -> None:
        """Close the image."""
        self._image.close()


def describe_disk(image: Image, serial: str) -> VirtioConfig:
    """Return the description's own part for a disk that `image` backs.

    Raises UsageError for a serial number that is too long or not ASCII.
    """
    raw = serial.encode("ascii", "replace")
    if len(raw) > SERIAL_BYTES or raw.decode() != serial or not serial.isprintable():
        raise UsageError(
            f"serial number {serial!r}: it has at most {SERIAL_BYTES} printable ASCII characters"
        )
    features = _ALWAYS | (BlockFeature.RO if image.is_read_only else _WRITABLE)
    sectors = image.size_bytes // SECTOR_BYTES
    own = DISK_LAYOUT.pack(sectors=sectors, serial=raw.ljust(SERIAL_BYTES, b"\0"))
    return VirtioConfig(1, QUEUE_SIZE, features, own)


def disk_config(description: DeviceDescription) -> VirtioConfig:
    """Return the own part of a disk's description. Raises UsageError."""
    described = config_of(description, 1, _ALWAYS | _WRITABLE | BlockFeature.RO)
    if len(described.own) != DISK_LAYOUT.size:
        raise UsageError(
            f"device {description.name!r}: {len(described.own)} bytes describe a disk, expected "
            f"{DISK_LAYOUT.size}"
        )
    return described


def disk_size_bytes(description: DeviceDescription) -> int:
    """Return the size of the disk that is described. Raises UsageError."""
    sectors, _ = _own_part(description, disk_config(description))
    return sectors * SECTOR_BYTES


def _own_part(description: DeviceDescription, described: VirtioConfig) -> tuple[int, bytes]:
    found = DISK_LAYOUT.unpack(described.own)
    sectors, serial = found["sectors"], found["serial"]
    if not 1 <= sectors <= (1 << 63) // SECTOR_BYTES:
        raise UsageError(f"device {description.name!r}: a disk of {sectors} sectors cannot be")
    return sectors, serial


def _require_same(name: str, described: VirtioConfig, sectors: int, image: Image) -> None:
    if image.size_bytes != sectors * SECTOR_BYTES:
        raise UsageError(
            f"disk {name!r} has {sectors * SECTOR_BYTES} bytes, image {image.path} has "
            f"{image.size_bytes}: give the file that the VM had, or a copy of it"
        )
    if image.is_read_only != bool(described.features & BlockFeature.RO):
        had = "can only be read" if described.features & BlockFeature.RO else "can be written"
        raise UsageError(f"disk {name!r} {had}, image {image.path} is given otherwise")


def _config_space(sectors: int, described: VirtioConfig) -> bytes:
    """Return struct virtio_blk_config (section 5.2.4)."""
    cylinders = min(sectors // (_HEADS * _TRACK_SECTORS), _MAX_CYLINDERS)
    discards = bool(described.features & BlockFeature.DISCARD)
    zeroes = bool(described.features & BlockFeature.WRITE_ZEROES)
    return _CONFIG.pack(
        *(sectors, 0, max(described.queue_size - 2, 1)),
        *(cylinders, _HEADS, _TRACK_SECTORS, SECTOR_BYTES),
        *(0, 0, 1, 0, 0, 0, 1),
        *(_MAX_DISCARD_SECTORS * discards, _MAX_SEGMENTS * discards, 1),
        *(_MAX_ZERO_SECTORS * zeroes, _MAX_SEGMENTS * zeroes, _UNMAP * zeroes),
    )
