"""The console: output, input as far as there are buffers, the terminal's size."""

import struct
from typing import Any

import pytest

from tagalong.devices.virtio.abi import Interrupt, Status
from tagalong.devices.virtio.backing import ConsoleBacking, VirtioBackings
from tagalong.errors import StateError
from tests.support.virtio_scene import VirtioScene, devices_scene, no_failure

RECEIVE, TRANSMIT = 0, 1


class Console:
    """A console with a driver; `output` is what the guest wrote, `wishes` how often it had room."""

    def __init__(self) -> None:
        self.output = bytearray()
        self.wishes = 0
        made: list[Any] = []
        backing = ConsoleBacking(self.output.extend, made.append)
        self.scene: VirtioScene = devices_scene(VirtioBackings(consoles={"console0": backing}))[0]
        (self.function,) = made
        self.function.when_readable(self.wish)
        self.driver = self.scene.driver

    def wish(self) -> None:
        self.wishes += 1


def test_output_of_the_guest_is_passed_on() -> None:
    console = Console()
    console.driver.start(2)
    queue = console.driver.queues[TRANSMIT]

    queue.make_available(queue.describe(*console.driver.readable(b"Linux ", b"version")))
    queue.make_available(queue.describe(*console.driver.readable(b"x" * 100_000)))

    assert console.output == b"Linux version" + b"x" * 100_000


def test_input_is_taken_as_far_as_there_are_buffers() -> None:
    console = Console()
    before = console.function.receive(b"early")
    console.driver.start(2)
    queue = console.driver.queues[RECEIVE]
    buffers = console.driver.writable(4, 4)
    queue.make_available(*(queue.describe(buffer) for buffer in buffers))

    taken = console.function.receive(b"login: root")
    wishes = console.wishes
    queue.make_available(queue.describe(*console.driver.writable(4)))

    assert (before, taken, wishes, console.wishes) == (0, 8, 1, 2)
    assert console.driver.contents(buffers) == b"login: r"
    assert [length for _, length in queue.take_used()] == [4, 4]


def test_input_waits_while_the_machine_is_paused() -> None:
    console = Console()
    console.driver.start(2)
    queue = console.driver.queues[RECEIVE]
    queue.make_available(queue.describe(*console.driver.writable(4)))
    console.scene.bus.pause()
    paused, wishes = console.function.receive(b"ls"), console.wishes

    console.scene.bus.resume(no_failure)

    assert (paused, console.function.receive(b"ls")) == (0, 2)
    assert console.wishes == wishes + 1


def test_size_of_the_terminal_reaches_a_driver_that_wants_it() -> None:
    console = Console()
    console.driver.start(2)

    console.function.resize(132, 43)

    assert console.driver.acknowledge() == Interrupt.CONFIG_CHANGE
    assert console.driver.read_config(8) == struct.pack("<HHI", 132, 43, 1)


def test_state_has_the_terminal_s_size() -> None:
    first, second = Console(), Console()
    first.function.resize(132, 43)

    second.scene.device.load(first.scene.device.save())

    assert second.driver.read_config(4) == struct.pack("<HH", 132, 43)
    with pytest.raises(StateError, match="console0 state: 3 bytes behind the queues, expected 4"):
        second.scene.device.load(first.scene.device.save()[:-1])


def test_buffers_of_the_wrong_direction_stop_the_console() -> None:
    console = Console()
    console.driver.start(2)
    queue = console.driver.queues[TRANSMIT]
    queue.make_available(queue.describe(*console.driver.writable(1)))
    stopped = console.driver.status & Status.DEVICE_NEEDS_RESET

    console.driver.start(2)
    queue = console.driver.queues[RECEIVE]
    queue.make_available(queue.describe(*console.driver.readable(b"a")))
    taken = console.function.receive(b"b")

    assert (bool(stopped), taken) == (True, 0)
    assert console.driver.status & Status.DEVICE_NEEDS_RESET
