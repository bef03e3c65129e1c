"""Drivers that break the rules: the device stops and says so, and nothing else happens."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tagalong.devices.virtio.abi import (
    DescriptorFlag,
    Interrupt,
    MmioRegister,
    Status,
    VirtioFeature,
)
from tests.support.virtio_driver import RAM, Buffer, DriverQueue, VirtioDriver
from tests.support.virtio_scene import echo_scene

NEXT, WRITE, INDIRECT = DescriptorFlag.NEXT, DescriptorFlag.WRITE, DescriptorFlag.INDIRECT
END = RAM + 256 * 4096


@dataclass
class Hostile:
    """Writes descriptors of a queue of 16, from number 0 on."""

    driver: VirtioDriver
    queue: DriverQueue

    def chain(self, *entries: tuple[int, int, int, int]) -> None:
        for index, entry in enumerate(entries):
            self.queue.set_descriptor(index, *entry)
        self.queue.make_available(0)

    def table(self, *entries: tuple[int, int, int, int], length: int | None = None) -> None:
        """Make an indirect table available."""
        gpa = self.driver.allocate(16 * max(len(entries), 1))
        for index, entry in enumerate(entries):
            where = self.queue.desc
            self.queue.desc = gpa
            self.queue.set_descriptor(index, *entry)
            self.queue.desc = where
        self.chain((gpa, 16 * len(entries) if length is None else length, INDIRECT, 0))


def a_loop(hostile: Hostile) -> None:
    hostile.chain((RAM, 1, NEXT, 1), (RAM, 1, NEXT, 0))


def a_descriptor_that_follows_itself(hostile: Hostile) -> None:
    hostile.chain((RAM, 1, NEXT, 0))


def a_next_descriptor_outside_the_table(hostile: Hostile) -> None:
    hostile.chain((RAM, 1, NEXT, 16))


def a_head_outside_the_table(hostile: Hostile) -> None:
    hostile.queue.make_available(16)


def a_buffer_below_ram(hostile: Hostile) -> None:
    hostile.chain((RAM - 1, 2, 0, 0))


def a_buffer_across_the_end_of_ram(hostile: Hostile) -> None:
    hostile.chain((END - 1, 2, 0, 0))


def a_buffer_that_wraps_around_64_bits(hostile: Hostile) -> None:
    hostile.chain(((1 << 64) - 1, 0xFFFF_FFFF, 0, 0))


def a_buffer_to_write_outside_ram(hostile: Hostile) -> None:
    hostile.chain((RAM, 1, NEXT, 1), (END, 1, WRITE, 0))


def a_readable_buffer_behind_a_writable_one(hostile: Hostile) -> None:
    hostile.chain((RAM, 1, WRITE | NEXT, 1), (RAM, 1, 0, 0))


def more_requests_than_the_queue_has(hostile: Hostile) -> None:
    hostile.queue.set_available(17)
    hostile.driver.notify(0)


def an_index_that_went_back(hostile: Hostile) -> None:
    hostile.queue.set_available(0xFFFF)
    hostile.driver.notify(0)


def a_table_inside_a_table(hostile: Hostile) -> None:
    hostile.table((RAM, 16, INDIRECT, 0))


def a_table_that_is_empty(hostile: Hostile) -> None:
    hostile.table(length=0)


def a_table_of_a_part_of_a_descriptor(hostile: Hostile) -> None:
    hostile.table((RAM, 1, 0, 0), length=15)


def a_table_larger_than_the_queue(hostile: Hostile) -> None:
    hostile.table((RAM, 1, 0, 0), length=16 * 17)


def a_table_outside_ram(hostile: Hostile) -> None:
    hostile.chain((END, 16, INDIRECT, 0))


def a_table_across_the_end_of_ram(hostile: Hostile) -> None:
    hostile.chain((END - 16, 32, INDIRECT, 0))


def a_descriptor_behind_a_table(hostile: Hostile) -> None:
    hostile.chain((RAM, 16, INDIRECT | NEXT, 1), (RAM, 1, 0, 0))


def a_loop_in_a_table(hostile: Hostile) -> None:
    hostile.table((RAM, 1, NEXT, 1), (RAM, 1, NEXT, 0))


def a_next_descriptor_outside_a_table(hostile: Hostile) -> None:
    hostile.table((RAM, 1, NEXT, 5))


RULES_BROKEN = (
    a_loop,
    a_descriptor_that_follows_itself,
    a_next_descriptor_outside_the_table,
    a_head_outside_the_table,
    a_buffer_below_ram,
    a_buffer_across_the_end_of_ram,
    a_buffer_that_wraps_around_64_bits,
    a_buffer_to_write_outside_ram,
    a_readable_buffer_behind_a_writable_one,
    more_requests_than_the_queue_has,
    an_index_that_went_back,
    a_table_inside_a_table,
    a_table_that_is_empty,
    a_table_of_a_part_of_a_descriptor,
    a_table_larger_than_the_queue,
    a_table_outside_ram,
    a_table_across_the_end_of_ram,
    a_descriptor_behind_a_table,
    a_loop_in_a_table,
    a_next_descriptor_outside_a_table,
)


@pytest.mark.parametrize("break_a_rule", RULES_BROKEN, ids=lambda each: each.__name__)
def test_driver_that_breaks_a_rule_stops_the_device(
    break_a_rule: Callable[[Hostile], None],
) -> None:
    scene, function = echo_scene()
    scene.driver.start(2)
    queue = scene.driver.queues[0]

    break_a_rule(Hostile(scene.driver, queue))
    queue.make_available(queue.describe(*scene.driver.readable(b"a"), at=8))
    scene.driver.notify(0)

    assert scene.driver.status & Status.DEVICE_NEEDS_RESET
    assert scene.driver.read(MmioRegister.INTERRUPT_STATUS) == Interrupt.CONFIG_CHANGE
    assert (function.served, queue.used_index) == (0, 0)


def test_stopped_device_works_again_after_a_reset() -> None:
    scene, function = echo_scene()
    scene.driver.start(2)
    a_loop(Hostile(scene.driver, scene.driver.queues[0]))

    scene.driver.start(2)
    queue = scene.driver.queues[0]
    queue.make_available(queue.describe(*scene.driver.readable(b"a"), *scene.driver.writable(1)))

    assert (function.served, queue.used_index) == (1, 1)
    assert not scene.driver.status & Status.DEVICE_NEEDS_RESET


def test_device_that_is_stopped_again_and_again_is_told_of_once_a_second(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene, _ = echo_scene()
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)

    def stop() -> int:
        """Let the driver break a rule, and return how often that was told."""
        scene.driver.start(2)
        a_loop(Hostile(scene.driver, scene.driver.queues[0]))
        return caplog.text.count("its driver broke a rule")

    told = [stop() for _ in range(5)]
    now += 1.0

    assert told == [1] * 5
    assert stop() == 2
    assert caplog.messages[-1].endswith(" (and 4 times since the last message)")


def test_stopped_device_cannot_be_started_by_its_status() -> None:
    scene, function = echo_scene()
    scene.driver.start(2)
    a_loop(Hostile(scene.driver, scene.driver.queues[0]))

    scene.driver.write(MmioRegister.STATUS, 0xF)
    scene.driver.notify(0)

    assert scene.driver.status & Status.DEVICE_NEEDS_RESET
    assert function.served == 0


def test_indirect_table_that_was_not_negotiated_stops_the_device() -> None:
    scene, _ = echo_scene()
    scene.driver.start(2, int(VirtioFeature.VERSION_1))
    queue = scene.driver.queues[0]

    queue.make_available(queue.describe_indirect(*scene.driver.readable(b"a")))

    assert scene.driver.status & Status.DEVICE_NEEDS_RESET


def test_queue_that_cannot_be_stops_the_device() -> None:
    cases = {
        "size 0": {MmioRegister.QUEUE_NUM: 0},
        "size 3": {MmioRegister.QUEUE_NUM: 3},
        "size beyond the largest": {MmioRegister.QUEUE_NUM: 32},
        "size of 32 bits": {MmioRegister.QUEUE_NUM: 0x8000_0000},
        "table misaligned": {MmioRegister.QUEUE_DESC_LOW: RAM + 8},
        "table outside RAM": {MmioRegister.QUEUE_DESC_HIGH: 1},
        "driver area misaligned": {MmioRegister.QUEUE_DRIVER_LOW: RAM + 1},
        "driver area across the end": {MmioRegister.QUEUE_DRIVER_LOW: END - 4},
        "device area misaligned": {MmioRegister.QUEUE_DEVICE_LOW: RAM + 2},
        "device area across the end": {MmioRegister.QUEUE_DEVICE_LOW: END - 4},
        "device area at the end of 64 bits": {
            MmioRegister.QUEUE_DEVICE_LOW: 0xFFFF_FFFC,
            MmioRegister.QUEUE_DEVICE_HIGH: 0xFFFF_FFFF,
        },
    }
    for name, wrong in cases.items():
        driver = echo_scene()[0].driver
        driver.negotiate()
        registers = {
            MmioRegister.QUEUE_NUM: 16,
            MmioRegister.QUEUE_DESC_LOW: RAM,
            MmioRegister.QUEUE_DRIVER_LOW: RAM + 0x1000,
            MmioRegister.QUEUE_DEVICE_LOW: RAM + 0x2000,
            **wrong,
        }

        for register, value in registers.items():
            driver.write(register, value)
        driver.write(MmioRegister.QUEUE_READY, 1)

        assert driver.status & Status.DEVICE_NEEDS_RESET, name
        assert driver.read(MmioRegister.QUEUE_READY) == 0, name


def test_request_that_names_the_same_ram_again_and_again_is_served() -> None:
    scene, _ = echo_scene()
    seen: list[int] = []
    scene, function = echo_scene(lambda chain: seen.append(chain.readable.size_bytes))
    scene.driver.start(2)
    queue = scene.driver.queues[0]
    size = 255 * 4096

    queue.make_available(queue.describe(*[Buffer(RAM + 0x800, size)] * 16))

    assert (seen, function.served) == ([16 * size], 1)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    table=st.binary(min_size=256, max_size=256),
    heads=st.lists(st.integers(0, 0xFFFF), min_size=1, max_size=16),
    index=st.integers(0, 0xFFFF),
)
def test_rings_of_any_content_never_raise(table: bytes, heads: list[int], index: int) -> None:
    scene, _ = echo_scene()
    scene.driver.start(2)
    queue = scene.driver.queues[0]
    untouched = scene.memory.read(END - 4096, 4096)

    scene.driver.poke(queue.desc, table)
    for place, head in enumerate(heads):
        scene.driver.poke16(queue.avail + 4 + 2 * place, head)
    queue.set_available(index)
    scene.driver.notify(0)

    assert queue.used_index <= 16
    assert scene.memory.read(END - 4096, 4096) == untouched


ACCESSES = st.tuples(
    st.booleans(),
    st.one_of(st.sampled_from(sorted(MmioRegister)), st.integers(0, 0x1FF)),
    st.sampled_from([1, 2, 4, 8]),
    st.one_of(st.sampled_from([0, 1, 2, 0xF, 0xFF, RAM, RAM + 0x1000]), st.integers(0, 1 << 64)),
)


@settings(max_examples=80, deadline=None)
@given(accesses=st.lists(ACCESSES, max_size=40))
def test_accesses_of_any_kind_never_raise(
    accesses: list[tuple[bool, int, int, int]],
) -> None:
    scene, _ = echo_scene()

    for is_write, offset, size, value in accesses:
        if offset + size <= 0x200:
            if is_write:
                scene.bus.write(scene.driver.base + offset, size, value)
            else:
                scene.bus.read(scene.driver.base + offset, size)

    state = scene.device.save()
    assert scene.device.objection(state) == ""


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_state_with_any_byte_changed_is_refused_or_taken(data: st.DataObject) -> None:
    scene, _ = echo_scene()
    scene.driver.start(2)
    state = bytearray(scene.device.save())
    state[data.draw(st.integers(0, len(state) - 1))] ^= data.draw(st.integers(1, 255))
    fresh, _ = echo_scene()

    if not fresh.device.objection(bytes(state)):
        fresh.device.load(bytes(state))
        assert fresh.device.save() == bytes(state)
        fresh.driver.notify(0)


def test_state_cut_short_anywhere_is_refused() -> None:
    scene, _ = echo_scene()
    scene.driver.start(2)
    state = scene.device.save()

    for length in range(len(state)):
        assert scene.device.objection(state[:length])
