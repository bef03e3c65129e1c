"""Random numbers: of the host, or of a seed."""

import pytest

from tagalong.devices.virtio.abi import Status
from tagalong.devices.virtio.backing import VirtioBackings
from tagalong.errors import StateError
from tests.support.virtio_scene import VirtioScene, devices_scene

RNG = VirtioBackings(entropy=["rng0"])


def a_source(seed: int | None) -> VirtioScene:
    scene = devices_scene(RNG, seed=seed)[0]
    scene.driver.start(1)
    return scene


def draw(scene: VirtioScene, *lengths: int) -> bytes:
    """Return the random numbers that one request gets."""
    queue, buffers = scene.driver.queues[0], scene.driver.writable(*lengths)
    queue.make_available(queue.describe(*buffers))
    ((_, written),) = queue.take_used()
    return scene.driver.contents(buffers)[:written]


def test_numbers_of_the_host_fill_the_buffers_and_never_repeat() -> None:
    scene = a_source(None)

    drawn = [draw(scene, 16, 16) for _ in range(4)]

    assert len(set(drawn)) == 4
    assert all(len(each) == 32 and any(each[16:]) for each in drawn)


def test_numbers_of_a_seed_are_the_same_in_each_run() -> None:
    first, second, other = a_source(7), a_source(7), a_source(8)

    runs = [[draw(scene, n) for n in (1, 40, 64)] for scene in (first, second, other)]

    assert runs[0] == runs[1] != runs[2]


def test_large_request_gets_a_part() -> None:
    assert len(draw(a_source(None), 1 << 16)) == 4096


def test_stream_of_a_seed_goes_on_after_a_migration() -> None:
    stayed, left, arrived = a_source(7), a_source(7), a_source(99)
    expected = [draw(stayed, 32) for _ in range(2)]
    before = draw(left, 32)

    arrived.device.load(left.device.save())
    arrived.driver.start(1)

    assert [before, draw(arrived, 32)] == expected


def test_machine_that_uses_the_host_s_ignores_a_stream() -> None:
    seeded, host = a_source(7), a_source(None)
    expected = draw(a_source(7), 32)

    host.device.load(seeded.device.save())
    host.driver.start(1)

    assert draw(host, 32) != expected
    seeded.device.load(host.device.save())


def test_request_with_anything_but_a_buffer_stops_the_source() -> None:
    for is_empty in (True, False):
        scene = a_source(None)
        queue = scene.driver.queues[0]
        buffers = scene.driver.writable(0) if is_empty else scene.driver.readable(b"seed")

        queue.make_available(queue.describe(*buffers))

        assert scene.driver.status & Status.DEVICE_NEEDS_RESET


def test_state_that_is_none_is_refused_by_name() -> None:
    scene = a_source(7)
    state = scene.device.save()
    source = len(state) - 20

    for wrong in (state[:source] + b"\2" + state[source + 1 :], state[:-1]):
        with pytest.raises(StateError, match="rng0 state: "):
            scene.device.load(wrong)
