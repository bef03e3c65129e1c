"""A network card (section 5.1): frames between the guest and a link of the host.

It has no offloads: what it sends and receives are whole frames. A guest that has arrived by
migration is at another port of its network: the card asks the driver to announce that
(VIRTIO_NET_F_GUEST_ANNOUNCE), and announces its address itself, for drivers that cannot.
"""

from __future__ import annotations

import struct
from enum import IntFlag
from typing import TYPE_CHECKING, ClassVar, Final

from tagalong._lazy import module_when_used
from tagalong.devices.virtio.abi import DeviceId
from tagalong.devices.virtio.described import VirtioConfig, config_of
from tagalong.devices.virtio.frames import ROW_BYTES, gather, length_of_first, row_of, scatter
from tagalong.devices.virtio.ram import RingError
from tagalong.errors import UsageError

if TYPE_CHECKING:
    import logging
    from collections.abc import Sequence

    from tagalong.devices.virtio.chain import Chain, RequestBatch
    from tagalong.devices.virtio.function import Port
    from tagalong.devices.virtio.link import NetworkLink
    from tagalong.machine import DeviceDescription
else:
    logging = module_when_used("logging")

MAC_BYTES: Final = 6

_RECEIVE, _TRANSMIT, _CONTROL = 0, 1, 2
_QUEUE_SIZE: Final = 256
_CONFIG: Final = struct.Struct(f"<{MAC_BYTES}sH")
_LINK_UP, _ANNOUNCE = 1, 2
_MOST_AT_ONCE: Final = 64
_ANNOUNCE_ACK: Final = (3, 0)  # VIRTIO_NET_CTRL_ANNOUNCE, VIRTIO_NET_CTRL_ANNOUNCE_ACK
_OK, _ERR = 0, 1
_BROADCAST: Final = b"\xff" * MAC_BYTES
_RARP: Final = 0x8035
# hardware and protocol type, their lengths, operation "request reverse" (RFC 903).
_RARP_HEAD: Final = struct.pack(">HHBBH", 1, 0x0800, MAC_BYTES, 4, 3)
_LEAST_BYTES_SENT: Final = 60


class NetFeature(IntFlag):
    """Features of a network card (section 5.1.3)."""

    MAC = 1 << 5
    MRG_RXBUF = 1 << 15
    STATUS = 1 << 16
    CTRL_VQ = 1 << 17
    GUEST_ANNOUNCE = 1 << 21


_OFFERED: Final = (
    NetFeature.MAC
    | NetFeature.MRG_RXBUF
    | NetFeature.STATUS
    | NetFeature.CTRL_VQ
    | NetFeature.GUEST_ANNOUNCE
)


class NetworkFunction:
    """A network card on `link`; implements VirtioFunction.

    Raises UsageError for a description that no network card has.
    """

    KIND: ClassVar = "virtio-net"

    device_id = DeviceId.NETWORK
    served_queues: Sequence[int] = (_TRANSMIT, _CONTROL)
    threads = 1
    most_at_once = _MOST_AT_ONCE
    is_active = True

    def __init__(self, description: DeviceDescription, link: NetworkLink) -> None:
        self._name = description.name
        self._mac = mac_of(description)
        self._link = link
        self._row = bytearray(ROW_BYTES)
        self._port: Port | None = None
        self._must_announce = False
        self._announces = False  # the driver has been asked to, and has not said that it did

    def attach(self, port: Port) -> None:
        """Take the transport."""
        self._port = port
        self._link.attach(self._receive, self._lost)

    @property
    def config(self) -> bytes:
        """Return struct virtio_net_config as far as its features go."""
        status = _LINK_UP * self._link.is_up | _ANNOUNCE * self._announces
        return _CONFIG.pack(self._mac, status)

    def write_config(self, offset: int, data: bytes) -> None:
        """Ignore it: no field can be written."""

    # --- frames ---

    def serve(self, queue: int, batch: RequestBatch) -> None:
        """Send frames, or carry out commands."""
        if queue == _CONTROL:
            for number, chain in enumerate(batch):
                batch.written[number] = self._control(chain)
        else:
            self._transmit(batch)

    def _transmit(self, batch: RequestBatch) -> None:
        """Send frames; the link drops what it cannot send soon, and then the rest of them."""
        done, goes = 0, True
        while done < batch.count:
            count, size = gather(batch, done, self._row)
            done += count
            if goes and size:
                goes = self._link.send(memoryview(self._row)[:size])

    def _receive(self, row: memoryview) -> int:
        """Give frames to the driver, in the link's thread.

        Return how many bytes of the row are done with: 0 if the driver has no buffer now.
        """
        assert self._port is not None  # noqa: S101 (attached)
        is_merged = bool(self._port.features & NetFeature.MRG_RXBUF)
        done = 0

        def fill(batch: RequestBatch) -> int | None:
            nonlocal done
            used, done = scatter(batch, row, is_merged=is_merged)
            if not done and batch.is_all:
                return None
            if not done:  # more buffers than may be taken at once: dropped
                done = length_of_first(row)
            return used

        self._port.deliver(_RECEIVE, fill, most=_MOST_AT_ONCE)
        return done

    def supplied(self, queue: int) -> None:
        """Let the link try again."""
        if queue == _RECEIVE:
            self._link.supplied()

    def _control(self, chain: Chain) -> int:
        """Carry out a command; its last byte says whether it was done."""
        command = chain.readable.read(0, 2)
        if chain.writable.size_bytes < 1:
            raise RingError(f"command {chain.head} has no byte for its result")
        is_known = tuple(command) == _ANNOUNCE_ACK
        if is_known:
            self._announces = False
        chain.writable.part(0, 1).write(bytes((_OK if is_known else _ERR,)))
        return 1

    def _lost(self, reason: str) -> None:
        logging.getLogger(__name__).warning("network %s is down: %s", self._name, reason)
        if self._port is not None:
            self._port.config_changed()

    def _announce(self) -> None:
        """Tell the network where this address is now."""
        assert self._port is not None  # noqa: S101 (attached)
        self._announces = bool(self._port.features & NetFeature.GUEST_ANNOUNCE)
        self._port.config_changed()
        self._link.send(memoryview(row_of(announcement_frame(self._mac))))

    # --- its life ---

    def reset(self) -> None:
        """Become what the card is at power-on."""
        self._announces = False

    def save(self) -> bytes:
        """Return nothing: an announcement that is asked for is asked for again on arrival."""
        return b""

    def objection(self, state: bytes) -> str:
        """Return why load() would reject `state`."""
        return f"{len(state)} bytes behind the queues, expected 0" if state else ""

    def load(self, state: bytes) -> None:
        """Announce the arrival when the machine runs."""
        del state
        self._must_announce = True

    def pause(self) -> None:
        """Do nothing: the transport takes no frame while the machine is paused."""

    def resume(self) -> None:
        """Read frames; announce an arrival."""
        self._link.resume()
        if self._must_announce:
            self._must_announce = False
            self._announce()

    def activate(self) -> None:
        """Take nothing: two cards on one network are two cards."""

    def flush(self) -> None:
        """Do nothing: what is sent is sent."""

    def inactivate(self) -> None:
        """Give up nothing."""

    def close(self) -> None:
        """Close the link."""
        self._link.close()


def describe_network(mac: bytes) -> VirtioConfig:
    """Return the description's own part for a card with this address.

    Raises UsageError for an address that no card has.
    """
    if len(mac) != MAC_BYTES or mac[0] & 1 or not any(mac):
        raise UsageError(
            f"{mac.hex(':')} is no address of a network card: write six bytes as in "
            "52:54:00:12:34:56, the first of them even"
        )
    return VirtioConfig(3, _QUEUE_SIZE, _OFFERED, mac)


def parse_mac(text: str) -> bytes:
    """Return the address written as 52:54:00:12:34:56. Raises UsageError."""
    try:
        if len(text) != 3 * MAC_BYTES - 1 or text.count(":") != MAC_BYTES - 1:
            raise ValueError
        mac = bytes(int(part, 16) for part in text.split(":"))
        describe_network(mac)
    except (ValueError, UsageError):
        raise UsageError(
            f"{text!r} is no address of a network card: write six bytes as in 52:54:00:12:34:56, "
            "the first of them even"
        ) from None
    return mac


def mac_of(description: DeviceDescription) -> bytes:
    """Return the address of the card that is described. Raises UsageError."""
    own = config_of(description, 3, _OFFERED).own
    try:
        describe_network(own)
    except UsageError as error:
        raise UsageError(f"device {description.name!r}: {error}") from error
    return own


def announcement_frame(mac: bytes) -> bytes:
    """Return a frame that shows switches where `mac` is: a RARP request for itself."""
    body = _RARP_HEAD + mac + bytes(4) + mac + bytes(4)
    return (_BROADCAST + mac + struct.pack(">H", _RARP) + body).ljust(_LEAST_BYTES_SENT, b"\0")
