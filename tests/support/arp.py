"""ARP by hand, for tests that are the guest of a network: who has an address?"""

import select

from tagalong.devices.virtio.frames import row_of
from tagalong.devices.virtio.link import FrameChannel
from tests.support.frame_rows import frames_of

_LEAST_FRAME_BYTES = 60
_ARP = b"\x08\x06"
_ANSWER_S = 30.0


def arp_request(mac: bytes, sender: str, target: str) -> bytes:
    """Return the frame in which `mac`, with the address `sender`, asks who has `target`."""
    head = b"\xff" * 6 + mac + _ARP + bytes.fromhex("0001 0800 06 04 0001")
    body = mac + _packed(sender) + bytes(6) + _packed(target)
    return (head + body).ljust(_LEAST_FRAME_BYTES, b"\0")


def who_has(channel: FrameChannel, mac: bytes, sender: str, target: str) -> str:
    """Ask, and return the address that the first answer comes from, "" if there is none."""
    channel.send(memoryview(row_of(arp_request(mac, sender, target))))
    while select.select((channel.fileno(),), (), (), _ANSWER_S)[0]:
        for frame in frames_of(channel.read()):
            if frame[12:14] == _ARP and frame[:6] == mac:
                return ".".join(map(str, frame[28:32]))
    return ""


def _packed(address: str) -> bytes:
    return bytes(map(int, address.split(".")))
