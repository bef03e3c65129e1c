"""The native walk over rings and chains, against the same walk in Python, and what it stores."""

import re
import struct
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tagalong._native import Buffer
from tagalong.devices.virtio.abi import DESCRIPTOR, VirtioFeature
from tagalong.devices.virtio.chain import Buffers, RequestBatch
from tagalong.devices.virtio.frames import gather, row_of, scatter
from tagalong.devices.virtio.queue import _RULES, QueueRegisters, Virtqueue
from tagalong.devices.virtio.ram import GuestRam, RingError
from tagalong.memory import Gpa, GuestMemory, Region
from tests.support.chain_reference import (
    BrokenRuleError,
    ReferenceChain,
    joined,
    read_chain,
)
from tests.support.frame_rows import frames_of

PAGE = 4096
RAM = 0x4000_0000
LOW_END = RAM + 8 * PAGE  # the second region follows without a gap
END = LOW_END + 8 * PAGE
TABLE, AVAIL, USED = RAM, RAM + PAGE, RAM + 2 * PAGE
DATA = RAM + 4 * PAGE
SIZE = 8
INDIRECT = int(VirtioFeature.INDIRECT_DESC)
EVENT_IDX = int(VirtioFeature.EVENT_IDX)
HEADER = bytes(10) + b"\1\0"


class Rings:
    """A queue of SIZE in RAM of two regions that touch, and its driver's stores."""

    def __init__(self, features: int = INDIRECT, size: int = SIZE) -> None:
        self.memory = GuestMemory(
            [Region.create(Gpa(RAM), 8 * PAGE), Region.create(Gpa(LOW_END), 8 * PAGE)]
        )
        self.ram = GuestRam(self.memory)
        self.queue = Virtqueue(size)
        self.queue.registers = QueueRegisters(
            size=size, desc_gpa=TABLE, driver_gpa=AVAIL, device_gpa=USED
        )
        self.queue.set_up(self.ram, features)
        self.size = size
        self.made = 0

    def describe(self, index: int, gpa: int, length: int, flags: int = 0, after: int = 0) -> None:
        entry = DESCRIPTOR.pack(gpa, length, flags, after)
        self.memory.write(TABLE + index * DESCRIPTOR.size, entry)

    def make(self, *heads: int) -> None:
        for head in heads:
            at = AVAIL + 4 + self.made % self.size * 2
            self.memory.write(at, struct.pack("<H", head))
            self.made += 1
        self.memory.write(AVAIL + 2, struct.pack("<H", self.made & 0xFFFF))

    def take(self, most: int = SIZE) -> RequestBatch:
        batch = self.queue.take(most)
        assert batch is not None
        return batch

    def everything(self) -> NDArray[np.uint8]:
        """Return a copy of all RAM."""
        return np.concatenate([region.data for region in self.memory.regions])

    def used(self) -> list[tuple[int, int]]:
        (index,) = struct.unpack("<H", self.memory.read(USED + 2, 2))
        return [struct.unpack("<II", self.memory.read(USED + 4 + 8 * n, 8)) for n in range(index)]

    def ranges(self, buffers: Buffers) -> tuple[tuple[int, int], ...]:
        """Return gpa and size of buffers."""
        found = []
        for each in (Buffer * buffers.count).from_address(buffers.address):
            for region in self.memory.regions:
                offset = each.address - region.raw_data.ctypes.data
                if 0 <= offset < region.size_bytes:
                    found.append((region.gpa + offset, each.bytes))
        return joined(found)


GPAS = st.one_of(
    st.sampled_from([TABLE, DATA, LOW_END - 8, LOW_END, END - 8, END, RAM - 8, 0, (1 << 64) - 8]),
    st.integers(RAM, END),
)
DESCRIPTORS = st.tuples(
    GPAS,
    st.one_of(
        st.sampled_from([0, 1, 8, 16, 32, 128, 2 * PAGE, 1 << 31]), st.integers(0, 0xFFFF_FFFF)
    ),
    st.sampled_from([0, 1, 1, 1, 2, 3, 3, 4, 4, 5, 6]),
    st.integers(0, SIZE + 1),
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    table=st.lists(DESCRIPTORS, min_size=SIZE, max_size=SIZE),
    inner=st.lists(DESCRIPTORS, min_size=SIZE, max_size=SIZE),
    head=st.integers(0, SIZE),
    features=st.sampled_from([0, INDIRECT]),
)
def test_any_chain_is_read_or_refused_as_by_the_reference(
    table: list[tuple[int, int, int, int]],
    inner: list[tuple[int, int, int, int]],
    head: int,
    features: int,
) -> None:
    rings = Rings(features)
    for index, entry in enumerate(table):
        rings.describe(index, *entry)
    for index, entry in enumerate(inner):
        rings.memory.write(DATA + index * DESCRIPTOR.size, DESCRIPTOR.pack(*entry))
    rings.make(head)

    found = expected = None
    with suppress(BrokenRuleError):
        expected = read_chain(rings.memory, TABLE, SIZE, head, indirect=bool(features))
    with suppress(RingError):
        (chain,) = rings.take()
        found = ReferenceChain(rings.ranges(chain.readable), rings.ranges(chain.writable))

    assert found == expected


def test_every_rule_of_the_header_has_a_text_of_its_own() -> None:
    header = (Path(__file__).parents[4] / "native" / "tagalong.h").read_text()

    numbers = [int(number) for number in re.findall(r"TA_VIRTQ_\w+ = (\d+)", header)]

    assert numbers == list(_RULES)
    assert len(set(_RULES.values())) == len(numbers)


def test_requests_are_taken_and_given_back_many_at_a_time() -> None:
    rings = Rings()
    for index in range(SIZE):
        rings.describe(index, DATA + index * 16, 16, flags=2)
    rings.make(3, 1, 2)

    batch = rings.take(2)
    rest = rings.take(2)
    for number in range(2):
        batch.written[number] = 10 + number
    rest.written[0] = 12
    wanted = rings.queue.give_back(batch, 2), rings.queue.give_back(rest, 1)

    assert ([chain.head for chain in batch], batch.is_all, rest.is_all) == ([3, 1], False, True)
    assert rings.used() == [(3, 10), (1, 11), (2, 12)]
    assert wanted == (True, True)


def test_requests_before_a_hostile_one_are_taken_first() -> None:
    rings = Rings()
    rings.describe(0, DATA, 16)
    rings.make(0, 0, SIZE)

    batch = rings.take()
    with pytest.raises(RingError, match=f"descriptor {SIZE} of a queue of {SIZE}"):
        rings.take()

    assert (batch.count, batch.is_all) == (2, False)


def test_requests_that_were_put_back_are_taken_again() -> None:
    rings = Rings(EVENT_IDX)
    rings.describe(0, DATA, 16)
    rings.describe(1, DATA + 16, 16)
    rings.make(0, 1)

    batch = rings.take()
    more = rings.queue.await_more()
    rings.queue.put_back(batch.count)
    event = struct.unpack("<H", rings.memory.read(USED + 4 + 8 * SIZE, 2))
    again = rings.take()

    assert (more, event) == (False, (2,))  # to be notified of what comes behind both
    assert [chain.head for chain in again] == [0, 1]


def test_driver_is_asked_to_notify_only_while_nothing_is_there() -> None:
    rings = Rings(0)
    rings.describe(0, DATA, 16)
    flags = []

    for heads in ((), (0,), ()):
        rings.make(*heads)
        rings.queue.take(1)
        flags.append(rings.memory.read(USED, 2))

    assert flags == [b"\0\0", b"\1\0", b"\0\0"]


def marked_pages(rings: Rings) -> list[list[int]]:
    return [region.stores.harvest().pages().tolist() for region in rings.memory.regions]


def start_log(rings: Rings) -> None:
    for region in rings.memory.regions:
        region.stores.start()


def test_what_is_stored_is_in_the_dirty_log_and_nothing_else() -> None:
    rings = Rings()
    rings.describe(0, DATA, 16, flags=1, after=1)
    rings.describe(1, DATA + PAGE, 3 * PAGE + 16, flags=2 | 1, after=2)  # into the next region
    rings.describe(2, LOW_END + 5 * PAGE, 16, flags=2)
    rings.make(0)
    start_log(rings)

    (chain,) = rings.take()
    taken = marked_pages(rings)
    chain.writable.write(bytes(3 * PAGE + 32))
    stored = marked_pages(rings)

    assert taken == [[2], []]  # the device area
    assert stored == [[5, 6, 7], [0, 5]]


def test_mark_comes_before_the_store_and_after_it() -> None:
    rings = Rings()
    rings.describe(0, DATA, 16, flags=2)
    rings.make(0)
    (chain,) = rings.take()
    start_log(rings)

    with chain.writable.storing():
        before = marked_pages(rings)
    after = marked_pages(rings)

    assert before == after == [[4], []]


def test_buffers_are_one_row_of_bytes() -> None:
    rings = Rings()
    rings.memory.write(DATA, bytes(range(100)))
    rings.describe(0, DATA, 10, flags=1, after=1)
    rings.describe(1, DATA + 50, 10, flags=1, after=2)
    rings.describe(2, DATA + 200, 5, flags=3, after=3)
    rings.describe(3, DATA + 300, 5, flags=2)
    rings.make(0)

    (chain,) = rings.take()
    chain.writable.write(b"1234567")

    row = bytes((*range(10), *range(50, 60)))
    assert chain.readable.read() == row
    assert chain.readable.read(8, 4) == row[8:12]
    assert chain.readable.part(5, 10).part(3, 4).read() == row[8:12]
    assert chain.readable.part(20, 0).read() == b""
    assert rings.memory.read(DATA + 200, 5) + rings.memory.read(DATA + 300, 2) == b"1234567"
    for refused in (lambda: chain.readable.part(15, 6), lambda: chain.readable.read(21, 0)):
        with pytest.raises(RingError, match=r"a request needs 21 bytes, its buffers have 20"):
            refused()
    with pytest.raises(RingError, match=r"a request needs 11 bytes, its buffers have 10"):
        chain.writable.write(bytes(11))


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    table=st.lists(DESCRIPTORS, min_size=SIZE, max_size=SIZE),
    heads=st.lists(st.integers(0, SIZE - 1), min_size=1, max_size=SIZE),
    lengths=st.lists(st.integers(14, 3 * PAGE), min_size=1, max_size=4),
    is_merged=st.booleans(),
)
def test_frames_reach_nothing_but_the_buffers_of_any_driver(
    table: list[tuple[int, int, int, int]],
    heads: list[int],
    lengths: list[int],
    *,
    is_merged: bool,
) -> None:
    rings = Rings()
    for index, (gpa, length, flags, after) in enumerate(table):
        rings.describe(index, gpa, length, flags & ~4, after)
    rings.make(*heads)
    batch = None
    with suppress(RingError):
        batch = rings.take()
    if batch is None:
        return
    open_to_writes = bytearray(END - RAM)
    for chain in batch:
        for gpa, length in rings.ranges(chain.writable):
            open_to_writes[gpa - RAM : gpa - RAM + length] = b"\1" * length
    before = rings.everything()

    with suppress(RingError):
        gather(batch, 0, bytearray(1 << 17))
    with suppress(RingError):
        scatter(batch, memoryview(row_of(*(b"\7" * n for n in lengths))), is_merged=is_merged)

    changed = np.flatnonzero(before != rings.everything())
    assert np.frombuffer(open_to_writes, np.uint8)[changed].all()


FRAMES = st.lists(st.integers(14, 300), min_size=1, max_size=6)


@settings(max_examples=60, deadline=None)
@given(
    lengths=FRAMES,
    buffers=st.lists(st.integers(12, 200), min_size=1, max_size=SIZE),
    is_merged=st.booleans(),
)
def test_frames_are_stored_whole_and_in_their_order(
    lengths: list[int], buffers: list[int], *, is_merged: bool
) -> None:
    frames = [bytes([number + 1]) * length for number, length in enumerate(lengths)]
    rings = Rings()
    for index, size in enumerate(buffers):
        rings.describe(index, DATA + index * 256, size, flags=2)
    rings.make(*range(len(buffers)))
    batch = rings.take()
    row = row_of(*frames)

    used, consumed = scatter(batch, memoryview(row), is_merged=is_merged)

    taken = frames_of(memoryview(row)[:consumed])
    assert taken == frames[: len(taken)]
    found = [rings.memory.read(DATA + index * 256, batch.written[index]) for index in range(used)]
    expected = expected_buffers(taken, buffers, is_merged=is_merged)
    assert found == expected
    if len(taken) < len(frames):  # there was no room for the next
        room = buffers[used:] if is_merged else buffers[used : used + 1]
        assert sum(room) < 12 + len(frames[len(taken)])
        assert is_merged or not room


def expected_buffers(frames: list[bytes], sizes: list[int], *, is_merged: bool) -> list[bytes]:
    """Return what each buffer that is used holds, by the text of section 5.1.6.4."""
    found: list[bytes] = []
    for frame in frames:
        if not is_merged:
            if 12 + len(frame) <= sizes[len(found)]:
                found.append(HEADER + frame)
            continue
        parts: list[int] = []
        left = 12 + len(frame)
        while left > 0:
            size = min(left, sizes[len(found) + len(parts)])
            parts.append(size)
            left -= size
        data = bytes(10) + struct.pack("<H", len(parts)) + frame
        for size in parts:
            found.append(data[:size])
            data = data[size:]
    return found


def test_only_buffers_that_frames_went_to_are_in_the_dirty_log() -> None:
    rings = Rings()
    for index in range(3):
        rings.describe(index, DATA + index * PAGE, PAGE, flags=2)
    rings.make(0, 1, 2)
    batch = rings.take()
    start_log(rings)

    scatter(batch, memoryview(row_of(bytes(60))), is_merged=True)

    assert marked_pages(rings) == [[4], []]


def test_frame_that_more_buffers_hold_than_one_may_have_is_dropped() -> None:
    rings = Rings(size=128)
    for index in range(100):
        rings.describe(index, DATA + index * 16, 16, flags=2)
    rings.make(*range(100))
    batch = rings.take(64)

    used, consumed = scatter(batch, memoryview(row_of(bytes(2000), b"\7" * 20)), is_merged=True)

    assert (used, consumed) == (2, 4 + 2000 + 4 + 20)
    assert rings.memory.read(DATA, 32) == bytes(10) + b"\2\0" + b"\7" * 20


def test_frames_to_send_are_gathered_without_their_headers() -> None:
    rings = Rings()
    rings.memory.write(DATA, bytes(12) + b"a" * 14 + b"b" * 50)
    rings.describe(0, DATA, 12, flags=1, after=1)
    rings.describe(1, DATA + 12, 10, flags=1, after=2)
    rings.describe(2, DATA + 22, 54)
    rings.describe(3, DATA, 13)  # a frame of one byte is none
    rings.describe(4, DATA, 26)
    rings.make(0, 3, 4)
    batch = rings.take()
    row = bytearray(100)

    count, size = gather(batch, 0, row)

    assert count == 3
    assert frames_of(memoryview(row)[:size]) == [b"a" * 14 + b"b" * 50, b"a" * 14]


def test_row_without_room_takes_the_first_frames() -> None:
    rings = Rings()
    rings.describe(0, DATA, 12 + 40)
    rings.make(0, 0, 0)
    batch = rings.take()
    row = bytearray(100)

    first = gather(batch, 0, row)
    rest = gather(batch, 2, row)

    assert (first, rest) == ((2, 88), (1, 44))


@pytest.mark.parametrize(("length", "flags"), [(11, 0), (64, 2)])
def test_frame_to_send_that_is_none_is_refused_behind_those_before_it(
    length: int, flags: int
) -> None:
    rings = Rings()
    rings.describe(0, DATA, 64)
    rings.describe(1, DATA, length, flags=flags)
    rings.make(0, 1)
    batch = rings.take()

    count, _ = gather(batch, 0, bytearray(100))
    with pytest.raises(RingError, match="frame 1 to send has no header, or a buffer"):
        gather(batch, count, bytearray(100))

    assert count == 1


def test_progress_is_saved_and_goes_on() -> None:
    rings = Rings(EVENT_IDX)
    rings.describe(0, DATA, 16)
    rings.make(0, 0, 0)
    batch = rings.take(2)
    rings.queue.give_back(batch, 2)
    saved = replace(rings.queue.registers)

    other = Virtqueue(SIZE)
    other.registers = QueueRegisters.from_bytes(saved.to_bytes())
    other.set_up(rings.ram, EVENT_IDX)
    left = other.take(SIZE)

    assert (saved.next_avail, saved.next_used, saved.signalled_used) == (2, 2, 2)
    assert left is not None
    assert (left.count, other.registers.next_avail) == (1, 3)
