"""What a tap device carries both ways, for tests in a network namespace of their own.

    unshare --user --map-root-user --net python3 -m tests.support.tap_exchange

makes a tap device, asks the kernel behind it for its address (ARP), and prints the answer.
"""

import select
import subprocess
import sys

from tagalong.devices.virtio.frames import row_of
from tagalong.devices.virtio.link import TapFrames, open_tap
from tagalong.devices.virtio.network import announcement_frame
from tests.support.frame_rows import frames_of

_NAME = "tap-test"
_ADDRESS = "10.9.9.1"
_OURS = bytes.fromhex("525400123456")
_ANSWER_S = 30.0


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def _request() -> bytes:
    """Return the ARP request "who has 10.9.9.1", from 10.9.9.2."""
    head = b"\xff" * 6 + _OURS + bytes.fromhex("0806 0001 0800 06 04 0001")
    body = _OURS + bytes((10, 9, 9, 2)) + bytes(6) + bytes((10, 9, 9, 1))
    return (head + body).ljust(60, b"\0")


def _row(*frames: bytes) -> memoryview:
    return memoryview(row_of(*frames))


def _answer(frames: TapFrames) -> bytes:
    while True:
        ready, _, _ = select.select((frames.fileno(),), (), (), _ANSWER_S)
        if not ready:
            return b""
        for frame in frames_of(frames.read()):
            if frame[12:14] == b"\x08\x06" and frame[:6] == _OURS:
                return frame


def main() -> None:
    """Make the device, and exchange frames with the kernel."""
    _ip("tuntap", "add", _NAME, "mode", "tap")
    _ip("address", "add", f"{_ADDRESS}/24", "dev", _NAME)
    frames = open_tap(_NAME, "net0")
    down = frames.send(_row(_request()))  # an interface that is down takes nothing
    _ip("link", "set", _NAME, "up")
    announced = frames.send(_row(announcement_frame(_OURS)))
    frames.send(_row(_request(), _request()))
    answer = _answer(frames)
    frames.close()
    sender = ".".join(map(str, answer[28:32]))
    sys.stdout.write(f"down={down} announced={announced} answer={sender}\n")


if __name__ == "__main__":
    main()
