"""What a tap device carries both ways, for tests in a network namespace of their own.

    unshare --user --map-root-user --net python3 -m tests.support.tap_exchange

makes a tap device, asks the kernel behind it for its address (ARP), and prints the answer.
"""

import subprocess
import sys

from tagalong.devices.virtio.frames import row_of
from tagalong.devices.virtio.link import TapFrames, open_tap
from tagalong.devices.virtio.network import announcement_frame
from tests.support.arp import arp_request, who_has

_NAME = "tap-test"
_ADDRESS = "10.9.9.1"
_OUR_ADDRESS = "10.9.9.2"
_OURS = bytes.fromhex("525400123456")


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def _is_sent(frames: TapFrames, frame: bytes) -> bool:
    return frames.send(memoryview(row_of(frame)))


def main() -> None:
    """Make the device, and exchange frames with the kernel."""
    _ip("tuntap", "add", _NAME, "mode", "tap")
    _ip("address", "add", f"{_ADDRESS}/24", "dev", _NAME)
    frames = open_tap(_NAME, "net0")
    request = arp_request(_OURS, _OUR_ADDRESS, _ADDRESS)
    down = _is_sent(frames, request)  # an interface that is down takes nothing
    _ip("link", "set", _NAME, "up")
    announced = _is_sent(frames, announcement_frame(_OURS))
    frames.send(memoryview(row_of(request, request)))
    answer = who_has(frames, _OURS, _OUR_ADDRESS, _ADDRESS)
    frames.close()
    sys.stdout.write(f"down={down} announced={announced} answer={answer}\n")


if __name__ == "__main__":
    main()
