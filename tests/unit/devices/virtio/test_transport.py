"""The MMIO transport and its queues, driven by a driver that follows the rules."""

from dataclasses import replace

import pytest

from tagalong.devices.virtio.abi import Interrupt, MmioRegister, Status, VirtioFeature
from tagalong.devices.virtio.chain import RequestBatch
from tagalong.devices.virtio.saved import SavedTransport
from tagalong.errors import StateError
from tests.support.virtio_driver import ALL_BASE, PAGE, RAM, VirtioDriver
from tests.support.virtio_scene import echo_scene, no_failure

FEATURE_SETS = (
    int(VirtioFeature.VERSION_1),
    int(VirtioFeature.VERSION_1 | VirtioFeature.INDIRECT_DESC),
    int(VirtioFeature.VERSION_1 | VirtioFeature.EVENT_IDX),
    ALL_BASE,
)


def echo(driver: VirtioDriver, data: bytes, *, indirect: bool = False) -> bytes:
    """Return what the device makes of `data`, sent in two buffers and received in two."""
    queue = driver.queues[0]
    half = len(data) // 2
    target = driver.writable(half, len(data) - half)
    buffers = [*driver.readable(data[:half], data[half:]), *target]
    head = queue.describe_indirect(*buffers) if indirect else queue.describe(*buffers)
    queue.make_available(head)
    assert queue.take_used() == [(head, len(data))]
    return driver.contents(target)


def test_registers_say_what_the_device_is() -> None:
    scene, _ = echo_scene()
    read = scene.driver.read

    found = [read(offset) for offset in (0x000, 0x004, 0x008, 0x00C, 0x0FC, 0x0B0, 0x0BC)]

    assert found == [0x74726976, 2, 4, 0x47414154, 0, 0xFFFF_FFFF, 0xFFFF_FFFF]
    assert scene.driver.offered() == ALL_BASE | 1 << 50


def test_registers_of_control_take_words_only() -> None:
    driver = echo_scene()[0].driver

    driver.write(MmioRegister.STATUS, 1, 1)

    assert (driver.read(0, 1), driver.read(0, 2), driver.read(MmioRegister.STATUS)) == (0, 0, 0)


def test_configuration_takes_every_width() -> None:
    scene, function = echo_scene()

    found = [scene.driver.read(0x100 + at, size) for at, size in ((0, 1), (2, 2), (4, 4), (8, 8))]
    scene.driver.write(0x104, 0x1234, 2)

    assert found == [0, 0x0302, 0x07060504, 0x0F0E0D0C0B0A0908]
    assert scene.driver.read(0x110, 4) == 0
    assert function.written == [(4, b"\x34\x12")]


def test_request_is_answered_for_every_set_of_features() -> None:
    for features in FEATURE_SETS:
        scene, _ = echo_scene()
        scene.driver.start(2, features)

        indirect = bool(features & VirtioFeature.INDIRECT_DESC)
        answers = [echo(scene.driver, bytes([n]) * 40, indirect=indirect) for n in range(3)]

        assert answers == [bytes([n]) * 40 for n in range(3)], hex(features)
        assert scene.levels[-1] is True
        assert scene.driver.acknowledge() == Interrupt.USED_BUFFER
        assert scene.levels[-1] is False


def test_rings_wrap_and_indexes_pass_65535() -> None:
    scene, function = echo_scene()
    scene.driver.start(2, int(VirtioFeature.VERSION_1 | VirtioFeature.EVENT_IDX), size=4)
    queue = scene.driver.queues[0]
    head = queue.describe(*scene.driver.readable(b"x"), *scene.driver.writable(1))
    saved = SavedTransport.from_bytes(scene.device.save())
    far = replace(saved.queues[0], next_avail=0xFFFD, next_used=0xFFFD)
    scene.device.load(replace(saved, queues=(far, saved.queues[1])).to_bytes())
    queue.next_avail = queue.next_used = 0xFFFD
    queue.set_available(0xFFFD)
    scene.driver.poke16(queue.used + 4 + 8 * queue.size, 0xFFFD)  # avail_event

    for _ in range(7):
        queue.make_available(head)

    assert (function.served, queue.used_index) == (7, 4)


def test_features_that_are_not_offered_are_not_accepted() -> None:
    for features in (ALL_BASE | 1 << 40, int(VirtioFeature.EVENT_IDX), 0):
        driver = echo_scene()[0].driver

        driver.negotiate(features)
        driver.write(MmioRegister.STATUS, driver.status | Status.DRIVER_OK)

        assert driver.status == Status.ACKNOWLEDGE | Status.DRIVER, hex(features)


def test_features_stay_once_they_are_accepted() -> None:
    scene, function = echo_scene()
    scene.driver.start(2)
    assert function.port is not None

    scene.driver.write(MmioRegister.DRIVER_FEATURES_SEL, 0)
    scene.driver.write(MmioRegister.DRIVER_FEATURES, 0)

    assert function.port.features == ALL_BASE | 1 << 50


def test_queue_that_does_not_exist_has_no_size() -> None:
    driver = echo_scene()[0].driver

    driver.write(MmioRegister.QUEUE_SEL, 2)
    driver.write(MmioRegister.QUEUE_READY, 1)

    assert (driver.read(MmioRegister.QUEUE_NUM_MAX), driver.read(MmioRegister.QUEUE_READY)) == (
        0,
        0,
    )


def test_notification_before_driver_ok_does_nothing() -> None:
    scene, function = echo_scene()
    accepted = scene.driver.negotiate()
    queue = scene.driver.set_up_queue(0, accepted)

    queue.make_available(queue.describe(*scene.driver.readable(b"a"), *scene.driver.writable(1)))
    scene.driver.notify(7)

    assert (function.served, queue.used_index) == (0, 0)


def test_interrupt_that_the_driver_does_not_want_is_not_raised() -> None:
    scene, _ = echo_scene()
    scene.driver.start(2, int(VirtioFeature.VERSION_1))
    queue = scene.driver.queues[0]
    scene.driver.poke16(queue.avail, 1)  # VIRTQ_AVAIL_F_NO_INTERRUPT

    echo(scene.driver, b"quiet")

    assert scene.driver.read(MmioRegister.INTERRUPT_STATUS) == 0


def test_interrupt_waits_for_the_event_index() -> None:
    scene, _ = echo_scene()
    scene.driver.start(2)
    queue = scene.driver.queues[0]
    echo(scene.driver, b"first: always")
    assert scene.driver.acknowledge()
    queue.request_interrupt(3)

    seen = []
    for n in range(4):
        echo(scene.driver, bytes([n, n]))
        seen.append(scene.driver.read(MmioRegister.INTERRUPT_STATUS))

    assert seen == [0, 0, 1, 1]


def test_device_delivers_only_into_buffers_that_the_driver_gave() -> None:
    scene, function = echo_scene()
    scene.driver.start(2)
    assert function.port is not None
    queue, port = scene.driver.queues[1], function.port

    def fill(batch: RequestBatch) -> int:
        batch[0].writable.write(b"in")
        batch.written[0] = 2
        return 1

    def deliver() -> bool:
        return port.deliver(1, fill)

    before = deliver()
    buffers = scene.driver.writable(8)
    queue.make_available(queue.describe(*buffers))
    after = deliver()

    assert (before, after, function.supplies) == (False, True, 1)
    assert scene.driver.contents(buffers) == b"in" + bytes(6)


def test_device_that_needs_more_buffers_takes_none() -> None:
    scene, function = echo_scene()
    scene.driver.start(2)
    assert function.port is not None
    queue = scene.driver.queues[1]
    queue.make_available(*(queue.describe(*scene.driver.writable(8)) for _ in range(2)))

    seen: list[tuple[int, bool]] = []

    def fill(batch: RequestBatch) -> int | None:
        seen.append((batch.count, batch.is_all))
        return None if batch.count < 3 else 2

    too_few = function.port.deliver(1, fill, most=4)
    queue.make_available(queue.describe(*scene.driver.writable(8)))
    enough = function.port.deliver(1, fill, most=4)

    assert (too_few, enough, queue.used_index) == (False, True, 2)
    assert (seen, function.supplies) == ([(2, True), (3, True)], 2)


def test_change_of_the_configuration_interrupts_a_driver_that_works() -> None:
    scene, function = echo_scene()
    assert function.port is not None

    function.port.config_changed()
    before = scene.driver.read(MmioRegister.INTERRUPT_STATUS)
    scene.driver.start(2)
    function.port.config_changed()

    assert (before, scene.driver.acknowledge()) == (0, Interrupt.CONFIG_CHANGE)
    assert scene.driver.read(MmioRegister.CONFIG_GENERATION) == 1


def test_reset_forgets_everything() -> None:
    scene, _ = echo_scene()
    before = scene.device.save()
    scene.driver.start(2)
    echo(scene.driver, b"some")

    scene.driver.write(MmioRegister.STATUS, 0)

    assert scene.device.save() == before
    assert scene.levels[-1] is False


def test_state_moves_to_another_device_that_goes_on() -> None:
    scene, _ = echo_scene()
    scene.driver.start(2)
    echo(scene.driver, b"before")
    queue = scene.driver.queues[0]
    target = scene.driver.writable(3)
    scene.device.pause()
    head = queue.describe(*scene.driver.readable(b"mid"), *target)
    queue.make_available(head, notify=False)

    other, _ = echo_scene()
    other.memory.regions[0].raw_data[:] = scene.memory.regions[0].data
    other.device.pause()
    other.bus.load(scene.bus.save())
    other.device.resume(no_failure)

    assert other.device.save() != scene.device.save()
    assert other.levels[-1] is True
    other.driver.queues = scene.driver.queues
    assert other.memory.read(target[0].gpa, 3) == b"mid"


def test_load_refuses_by_name_what_it_cannot_be() -> None:
    scene, _ = echo_scene()
    scene.driver.start(2)
    state = scene.device.save()
    fresh, _ = echo_scene()
    cases = {
        b"": "echo0 state: 0 bytes, expected at least 44",
        bytes(44): "echo0 state: version 0, expected 1",
        state[:-1]: "echo0 state: no echo is 656368",
        state[:4] + b"\2" + state[5:]: "echo0 state: it is of device 2 with 2 queues, expected",
        state[:15] + b"\x80" + state[16:]: "features 0x8000000000000000, which are not offered",
        state[:17] + b"\1" + state[18:]: "echo0 state: status 0x1",
        state[:40] + b"\3" + state[41:]: "echo0 state: 128 bytes are too few for 3 queues",
        state[:44] + b"\3" + state[45:]: "queue size 3: it is a power of two of at most 16",
        state[:52] + b"\1" + state[53:]: "the descriptor table at gpa 0x40000001",
        state[:59] + b"\1" + state[60:]: "is not in one region of guest RAM",
        state[:48] + b"\2" + state[49:]: "is_ready is 0x2: it is 0 or 1",
    }
    before = fresh.device.save()

    for case, message in cases.items():
        with pytest.raises(StateError) as caught:
            fresh.device.load(case)
        assert message in str(caught.value)
        assert fresh.device.save() == before


def test_every_store_is_in_the_dirty_log() -> None:
    scene, _ = echo_scene()
    scene.driver.start(2)
    queue = scene.driver.queues[0]
    scene.driver.allocate(0, PAGE)
    (target,) = scene.driver.writable(2 * PAGE)
    (region,) = scene.memory.regions
    region.stores.start()

    queue.make_available(queue.describe(*scene.driver.readable(b"z" * PAGE), target))

    marked = region.stores.harvest()
    page = (target.gpa - RAM) // PAGE
    ring = (queue.used - RAM) // PAGE
    assert [marked.has_range(n, 1) for n in (page, page + 1, ring)] == [True, False, True]
