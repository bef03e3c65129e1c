"""Network cards: frames both ways, a link that is slow or lost, and the arrival announced."""

import fcntl
import os
import resource
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tagalong.devices.virtio import link
from tagalong.devices.virtio.abi import Interrupt, Status, VirtioFeature
from tagalong.devices.virtio.backing import NetworkBacking, VirtioBackings
from tagalong.devices.virtio.frames import row_of
from tagalong.devices.virtio.link import NetworkLink, StreamFrames, connect_stream, open_tap
from tagalong.devices.virtio.network import NetFeature, announcement_frame
from tagalong.devices.virtio.passt import PasstFrames, start_passt
from tagalong.errors import HostError, UsageError
from tests.support.bare import wait_until
from tests.support.frame_rows import frames_of
from tests.support.virtio_driver import Buffer, VirtioDriver
from tests.support.virtio_scene import VirtioScene, devices_scene, make_devices, no_failure

RECEIVE, TRANSMIT, CONTROL = range(3)
MAC = bytes.fromhex("525400123456")
FRAME = b"\xff" * 6 + MAC + b"\x08\x00" + b"payload".ljust(46, b".")
HEADER_BYTES = 12
PLAIN = int(VirtioFeature.VERSION_1 | NetFeature.MAC)


class Network:
    """A card whose socket this test serves, as passt does; `driver` has started."""

    def __init__(self, folder: Path, features: int | None = None) -> None:
        path = folder / "net.sock"
        path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(str(path))
            listener.listen()
            backing = NetworkBacking("unix", str(path))
            self.backings = VirtioBackings(networks={"net0": backing})
            self.raised = threading.Event()
            self.scene: VirtioScene = devices_scene(self.backings)[0]
            self.peer, _ = listener.accept()
        self.peer.settimeout(60)
        self.scene.device.interrupt_status.follow(_Line(self.raised))  # type: ignore[arg-type]
        self.driver: VirtioDriver = self.scene.driver
        self.driver.start(3, features)

    def give_buffers(self, *lengths: int) -> list[Buffer]:
        """Give the device buffers to receive into, one chain each."""
        queue, buffers = self.driver.queues[RECEIVE], self.driver.writable(*lengths)
        queue.make_available(*(queue.describe(buffer) for buffer in buffers))
        return buffers

    def wait_for_used(self, count: int) -> list[tuple[int, int]]:
        """Return what was used for reception, when there is so much."""
        queue = self.driver.queues[RECEIVE]
        while queue.used_index - queue.next_used & 0xFFFF < count:
            seen = queue.used_index
            queue.request_interrupt(seen)
            if queue.used_index == seen:
                assert self.raised.wait(60)
                self.raised.clear()
                self.driver.acknowledge()
        return queue.take_used()

    def transmit(self, *parts: bytes) -> None:
        """Send a frame behind the header of one."""
        queue = self.driver.queues[TRANSMIT]
        buffers = self.driver.readable(bytes(HEADER_BYTES), *parts)
        queue.make_available(queue.describe(*buffers))

    def read_frame(self) -> bytes:
        """Return the next frame that the peer gets."""
        (length,) = struct.unpack(">I", self._read(4))
        return self._read(length)

    def _read(self, length: int) -> bytes:
        found = b""
        while len(found) < length:
            found += self.peer.recv(length - len(found))
        return found

    def command(self, *data: int) -> int:
        """Make a request on the control queue; return its result."""
        queue, (result,) = self.driver.queues[CONTROL], self.driver.writable(1)
        queue.make_available(queue.describe(*self.driver.readable(bytes(data)), result))
        return self.driver.contents([result])[0]


class _Line:
    def __init__(self, event: threading.Event) -> None:
        self._event = event

    def set(self, level: bool) -> None:
        if level:
            self._event.set()


@contextmanager
def a_network(folder: Path, features: int | None = None) -> Iterator[Network]:
    network = Network(folder, features)
    try:
        yield network
    finally:
        network.scene.close()
        network.peer.close()


def framed(frame: bytes) -> bytes:
    return struct.pack(">I", len(frame)) + frame


def test_configuration_has_the_address_and_the_link(tmp_path: Path) -> None:
    with a_network(tmp_path) as network:
        assert network.driver.read_config(8) == MAC + struct.pack("<H", 1)


def test_frames_go_both_ways(tmp_path: Path) -> None:
    with a_network(tmp_path) as network:
        (buffer, _) = network.give_buffers(1526, 1526)

        network.transmit(FRAME[:14], FRAME[14:])
        network.peer.sendall(framed(FRAME))

        assert network.read_frame() == FRAME
        assert network.wait_for_used(1) == [(0, HEADER_BYTES + len(FRAME))]
        received = network.driver.peek(buffer.gpa, HEADER_BYTES + len(FRAME))
        assert received == bytes(10) + b"\1\0" + FRAME


def test_large_frame_is_spread_over_buffers(tmp_path: Path) -> None:
    frame = FRAME + bytes(range(256)) * 20
    with a_network(tmp_path) as network:
        buffers = network.give_buffers(1000, 1000, 1000)
        network.peer.sendall(framed(frame))
        buffers += network.give_buffers(1000, 1000, 1000)

        used = network.wait_for_used(6)

        assert [length for _, length in used] == [1000] * 5 + [HEADER_BYTES + len(frame) - 5000]
        data = network.driver.contents(buffers)[: HEADER_BYTES + len(frame)]
        assert data == bytes(10) + b"\6\0" + frame


def test_frame_too_large_for_a_driver_without_merged_buffers_is_dropped(tmp_path: Path) -> None:
    with a_network(tmp_path, PLAIN) as network:
        network.give_buffers(1526)

        network.peer.sendall(framed(bytes(5000)) + framed(FRAME))

        assert network.wait_for_used(1) == [(0, HEADER_BYTES + len(FRAME))]


def test_frames_wait_for_buffers_in_their_order(tmp_path: Path) -> None:
    frames = [FRAME + bytes([n]) for n in range(3)]
    with a_network(tmp_path) as network:
        network.peer.sendall(b"".join(map(framed, frames)))
        buffers = [network.give_buffers(1526)[0] for _ in frames]

        network.wait_for_used(3)

        found = [network.driver.peek(each.gpa + HEADER_BYTES, len(FRAME) + 1) for each in buffers]
        assert found == frames


def test_no_frame_comes_while_the_machine_is_paused(tmp_path: Path) -> None:
    with a_network(tmp_path) as network:
        network.scene.bus.pause()
        network.give_buffers(1526)
        network.peer.sendall(framed(FRAME))
        used = network.raised.wait(0.05)

        network.scene.bus.resume(no_failure)

        assert not used
        assert len(network.wait_for_used(1)) == 1


def test_link_that_is_lost_is_told_to_the_guest(tmp_path: Path) -> None:
    for sent in (b"", struct.pack(">I", 5), struct.pack(">I", 65536)):
        with a_network(tmp_path) as network:
            network.peer.sendall(sent)
            network.peer.shutdown(socket.SHUT_WR)

            assert network.raised.wait(60)

            assert network.driver.acknowledge() == Interrupt.CONFIG_CHANGE
            assert network.driver.read_config(8)[6:] == b"\0\0"
            network.transmit(FRAME)  # dropped


def test_link_goes_down_by_a_length_that_no_frame_has_behind_one_that_is_taken(
    tmp_path: Path,
) -> None:
    with a_network(tmp_path) as network:
        network.give_buffers(1526)
        network.peer.sendall(framed(FRAME) + struct.pack(">I", 5))

        while network.driver.read_config(8)[6:] != b"\0\0":
            assert network.raised.wait(60)
            network.raised.clear()

        assert network.wait_for_used(1) == [(0, HEADER_BYTES + len(FRAME))]


def test_frames_for_a_peer_that_does_not_read_are_dropped_not_waited_for(tmp_path: Path) -> None:
    large = FRAME[:14] + bytes(60_000)
    with a_network(tmp_path) as network:
        queue = network.driver.queues[TRANSMIT]
        buffers = network.driver.readable(bytes(HEADER_BYTES) + large)
        head = queue.describe(*buffers)
        for _ in range(60):
            queue.make_available(head)
        came = [network.read_frame() for _ in range(2)]
        network.transmit(FRAME)

        assert (queue.used_index, came) == (61, [large, large])
        while network.read_frame() != FRAME:  # what went is whole, and the next frame comes
            network.transmit(FRAME)


def test_frames_that_are_none_are_not_sent(tmp_path: Path) -> None:
    with a_network(tmp_path) as network:
        network.transmit(b"short")
        network.transmit(bytes(65536))
        network.transmit(FRAME)

        assert network.read_frame() == FRAME


def test_request_without_header_stops_the_card(tmp_path: Path) -> None:
    with a_network(tmp_path) as network:
        queue = network.driver.queues[TRANSMIT]
        queue.make_available(queue.describe(*network.driver.readable(bytes(11))))

        assert network.driver.status & Status.DEVICE_NEEDS_RESET


def test_arrival_is_announced_by_the_card_and_by_the_driver(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with a_network(tmp_path) as left, a_network(tmp_path / "there") as arrived:
        arrived.scene.bus.pause()
        state = left.scene.bus.save()
        (arrived_region,) = arrived.scene.memory.regions
        arrived_region.raw_data[:] = left.scene.memory.regions[0].data

        arrived.scene.bus.load(state)
        arrived.scene.bus.resume(no_failure)

        assert arrived.read_frame() == announcement_frame(MAC)
        assert arrived.driver.acknowledge() == Interrupt.CONFIG_CHANGE
        assert arrived.driver.read_config(8)[6:] == b"\3\0"
        arrived.driver.queues = left.driver.queues
        for queue in arrived.driver.queues:
            queue.driver = arrived.driver
        arrived.driver._free = left.driver._free
        assert (arrived.command(3, 0), arrived.command(3, 1), arrived.command(9, 9)) == (0, 1, 1)
        assert arrived.driver.read_config(8)[6:] == b"\1\0"


def test_announcement_is_a_rarp_frame_of_the_address() -> None:
    frame = announcement_frame(MAC)

    assert frame[:14] == b"\xff" * 6 + MAC + b"\x80\x35"
    assert frame[14:22] == bytes.fromhex("0001080006040003")
    assert (frame[22:28], frame[32:38], len(frame)) == (MAC, MAC, 60)


def test_addresses_are_qemu_s_unless_they_are_given() -> None:
    nets = {
        "net0": NetworkBacking("tap", "t0"),
        "net1": NetworkBacking("tap", "t1", b"\2\1\1\1\1\1"),
        "net2": NetworkBacking("tap", "t2"),
    }

    described = VirtioBackings(networks=nets).describe()

    macs = [each.config[16:].hex() for each in described]
    assert macs == ["525400123456", "020101010101", "525400123458"]


def test_addresses_that_no_card_has_are_refused_by_name(tmp_path: Path) -> None:
    with a_network(tmp_path) as network:
        (right,) = network.backings.describe()
        for mac in (bytes(6), b"\1" * 6, b"\2" * 5):
            wrong = replace(right, config=right.config[:16] + mac)
            with pytest.raises(UsageError, match=r"device 'net0': .* is no address of a network"):
                make_devices(network.backings, (wrong,))


def test_networks_that_are_not_there_are_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with a_network(tmp_path) as network:
        described = network.backings.describe()
    nothing = VirtioBackings(networks={"net0": NetworkBacking("unix", str(tmp_path / "none"))})
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(HostError, match=r"cannot connect network 'net0' to .*none: No such file"):
        make_devices(nothing, described)
    with pytest.raises(UsageError, match="network card 'net0': give it as --net user"):
        make_devices(VirtioBackings(), described)
    with pytest.raises(UsageError, match="to tap device 'tagalong9': there is none; make it first"):
        open_tap("tagalong9", "net0")
    with pytest.raises(UsageError, match=r"to tap device '.udcff': there is none"):
        open_tap(os.fsdecode(b"\xff"), "net0")
    with pytest.raises(UsageError, match="no network interface has such a name"):
        open_tap("../lo", "net0")
    with pytest.raises(HostError, match="needs the program passt, which is not here"):
        start_passt("net0")


def test_socket_whose_listener_accepts_no_one_is_refused_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "_CONNECT_TIMEOUT_S", 0.01)
    path = tmp_path / "busy"
    with socket.socket(socket.AF_UNIX) as listener, ExitStack() as waiting:
        listener.bind(str(path))
        listener.listen(0)
        waiting.callback(connect_stream(path, "net0").close)  # the backlog is full now

        with pytest.raises(HostError) as caught:
            connect_stream(path, "net0")

    assert str(caught.value) == (
        f"cannot connect network 'net0' to {path}: what listens there has not accepted the "
        "connection within 0.01 s"
    )


def test_link_reads_a_descriptor_of_any_number() -> None:
    ours, theirs = socket.socketpair()
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    high = fcntl.fcntl(ours, fcntl.F_DUPFD_CLOEXEC, min(1100, most - 1))
    ours.close()
    received: list[bytes] = []
    network = NetworkLink(StreamFrames(socket.socket(fileno=high)), "net0")

    def receive(row: memoryview) -> int:
        received.append(bytes(row))
        return len(row)

    network.attach(receive, lambda _: None)
    network.resume()
    theirs.sendall(row_of(b"a frame of it."))
    wait_until(lambda: bool(received), 10)
    network.close()
    theirs.close()

    assert received == [bytes(row_of(b"a frame of it."))]


def read_to_the_end(frames: PasstFrames) -> None:
    while True:
        frames.read()


def test_program_that_plays_passt_is_started_and_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "passt"
    program.write_text(
        "#!/usr/bin/env python3\n"
        "import os, sys\n"
        "fd = int(sys.argv[sys.argv.index('--fd') + 1])\n"
        "os.write(fd, bytes([0, 0, 0, 14]) + b'hello from it!')\n"
        "while data := os.read(fd, 100):\n"
        "    if b'die' in data:\n"
        "        sys.exit('no route to anywhere')\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

    started = start_passt("net0")
    frames: list[bytes] = []
    while not frames:
        frames = frames_of(started.read())
    started.send(memoryview(row_of(b"die".ljust(14))))
    with pytest.raises(ConnectionResetError) as caught:
        read_to_the_end(started)
    started.close()
    started.close()

    assert frames == [b"hello from it!"]
    assert caught.value.strerror == "passt ended: no route to anywhere"
