"""Which records a batch becomes, and what is touched at the receiving end."""

import os
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tagalong.machine import MachinePages
from tagalong.machine_records import record_of_description, record_of_state
from tagalong.memory import Gpa, PageBitmap
from tagalong.migrate import Timeouts
from tagalong.migrate.link import Link
from tagalong.migrate.pages.digest import memory_digest
from tagalong.migrate.pages.receiver import PageInventory, PageReceiver
from tagalong.migrate.pages.sender import PageSender, SentData, Tally, batches
from tagalong.migrate.pages.sender_group import SenderGroup
from tagalong.wire import Accept, Batch, Hello, NoBytes, Pages, Role, Run, Runs
from tagalong.wire.planes import BatchHead, DataEncoding, TagEncoding
from tests.support.fake_machine import RAM, FakeMachine, contents, describe
from tests.support.migration import channel_pair
from tests.support.wire_session import MIGRATION_ID, Pair

PAGE = 4096


@given(st.sets(st.integers(0, 200_000), max_size=300), st.integers(1, 40))
def test_batches_have_every_page_once_in_order(pages: set[int], most: int) -> None:
    bitmap = PageBitmap.from_pages(200_001, sorted(pages))

    found = [numbers.tolist() for numbers in batches(bitmap, lambda: most)]

    assert [number for each in found for number in each] == sorted(pages)
    assert all(1 <= len(each) <= most for each in found)


def sent_records(machine: FakeMachine, *numbers: int, is_live: bool) -> list[Pages]:
    """Return the records in which these pages of the first region are sent."""
    pair = pair_of(machine)
    near, far = channel_pair()
    with near, far:
        link = Link(near, pair.source, Timeouts())
        bitmaps = [PageBitmap(region.page_count) for region in machine.memory.regions]
        for number in numbers:
            bitmaps[0].set_range(number, 1)
        tally = Tally()
        senders = SenderGroup(PAGE, lambda: 4 << 20, lambda _: None)
        senders.add(link, PageSender(machine, link, SentData(machine)))
        senders.send(bitmaps, tally, lambda _: None, is_live=is_live)
        link.flush()
        target = bytearray(4 << 20)
        count = far.receive_into(memoryview(target))
    pair.destination.receive_data(target[:count])
    records = []
    while isinstance(record := pair.destination.next_record(), Pages):
        records.append(record)
    assert tally.pages == len(numbers)
    assert tally.wire_bytes + sum(56 + 16 * (len(it.runs) - 1) for it in records) == count
    return records


def pair_of(machine: FakeMachine) -> Pair:
    """Return both ends of a conversation about `machine`, ready for pages."""
    pair = Pair.new()
    pair.say(Role.SOURCE, Hello(Role.SOURCE, MIGRATION_ID))
    pair.say(Role.DESTINATION, Hello(Role.DESTINATION, MIGRATION_ID))
    pair.say(Role.SOURCE, record_of_description(machine.description))
    pair.say(Role.SOURCE, record_of_state(machine.peek_state()))
    pair.say(Role.DESTINATION, Accept())
    return pair


@pytest.mark.parametrize("is_live", [True, False])
def test_sender_puts_scattered_pages_into_one_record(machine: FakeMachine, is_live: bool) -> None:
    rows = machine.memory.regions[0].raw_data.reshape(-1, PAGE)
    tags = machine.memory.regions[0].raw_tags.reshape(-1, 128)
    for number in (2, 3, 9):
        rows[number], tags[number] = number, 0x11 * number

    (record,) = sent_records(machine, 2, 3, 9, is_live=is_live)

    assert record.runs == Runs([(RAM + 2 * PAGE, 2), (RAM + 9 * PAGE, 1)])
    assert isinstance(record.data, tuple)
    assert b"".join(record.data) == b"\2" * PAGE + b"\3" * PAGE + b"\t" * PAGE
    assert record.tags == memoryview(b"\x22" * 128 + b"\x33" * 128 + b"\x99" * 128)


@pytest.mark.parametrize("is_live", [True, False])
def test_sender_separates_zero_pages_and_keeps_their_tags(
    machine: FakeMachine, is_live: bool
) -> None:
    region = machine.memory.regions[0]
    region.raw_data[: 2 * PAGE : PAGE] = 1
    region.raw_tags[4 * 128] = 0x70

    zero, data = sent_records(machine, 0, 1, 4, 5, is_live=is_live)

    assert data.runs == Runs([(RAM, 2)])
    assert data.tags is NoBytes.ZERO
    assert zero.runs == Runs([(RAM + 4 * PAGE, 2)])
    assert zero.data is NoBytes.ZERO
    assert zero.tags == memoryview(b"\x70" + bytes(255))


def test_sender_reading_a_live_guest_fills_no_hole(machine: FakeMachine) -> None:
    machine.memory.regions[0].raw_tags[7 * 128] = 1

    sent_records(machine, 7, is_live=True)

    region = machine.memory.regions[0]
    assert os.lseek(region.data_fd, 0, os.SEEK_HOLE) == 0
    with pytest.raises(OSError, match="No such device or address"):
        os.lseek(region.data_fd, 0, os.SEEK_DATA)


@pytest.fixture
def machine() -> Iterator[FakeMachine]:
    machine = FakeMachine(describe(0x10_0000, 0x1_0000))
    yield machine
    machine.close()


def batch_of(*runs: tuple[int, int]) -> Batch:
    """Return the head of a batch of uncompressed data with zero tags."""
    table = Runs(runs)
    head = BatchHead(len(runs), DataEncoding.RAW, TagEncoding.ZERO, 0, table.page_count * PAGE)
    return Batch(head, table, PAGE)


def land(receiver: PageReceiver, data: bytes, *runs: tuple[int, int]) -> Sequence[memoryview]:
    """Receive `data` into the memory that the receiver names for these runs."""
    landing = receiver.data(batch_of(*runs))
    for piece in landing:
        piece[:], data = data[: len(piece)], data[len(piece) :]
    assert not data
    return landing


def test_receiver_given_zero_for_holes_leaves_them(machine: FakeMachine) -> None:
    receiver = PageReceiver(machine, PageInventory(machine), has_tags=True)

    receiver.take(Pages(Runs([Run(RAM, 0x100)]), NoBytes.ZERO, NoBytes.ZERO))

    assert [bitmap.count() for bitmap in machine.populated_pages()] == [0, 0]
    assert (receiver.end_round(), receiver.end_round()) == (0x100, 0)


def test_receiver_given_zero_after_bytes_clears_those_pages_alone(machine: FakeMachine) -> None:
    receiver = PageReceiver(machine, PageInventory(machine), has_tags=True)
    placed = land(receiver, bytes([9]) * (2 * PAGE), (RAM + 4 * PAGE, 2))
    tags = memoryview(bytes([0x11]) * 256)
    receiver.take(Pages(Runs([Run(RAM + 4 * PAGE, 2)]), placed, tags))

    receiver.take(Pages(Runs([Run(RAM, 5)]), NoBytes.ZERO, NoBytes.ZERO))

    data, packed = contents(machine)[0]
    assert not any(data[: 5 * PAGE])
    assert data[5 * PAGE : 6 * PAGE] == bytes([9]) * PAGE
    assert not any(packed[: 5 * 128])
    assert packed[5 * 128 : 6 * 128] == bytes([0x11]) * 128
    assert machine.populated_pages()[0].pages().tolist() == [4, 5]


def test_receiver_given_tags_alone_writes_no_data(machine: FakeMachine) -> None:
    receiver = PageReceiver(machine, PageInventory(machine), has_tags=True)

    receiver.take(Pages(Runs([Run(RAM + PAGE, 1)]), NoBytes.ZERO, memoryview(bytes([0x22]) * 128)))

    region = machine.memory.regions[0]
    assert machine.populated_pages()[0].pages().tolist() == [1]
    assert not any(region.read_data(0, region.size_bytes))


def test_receiver_deals_the_tags_out_to_the_runs(machine: FakeMachine) -> None:
    receiver = PageReceiver(machine, PageInventory(machine), has_tags=True)
    tags = memoryview(b"\x11" * 128 + b"\x22" * 256)

    receiver.take(Pages(Runs([Run(RAM, 1), Run(RAM + 5 * PAGE, 2)]), NoBytes.ZERO, tags))

    packed = contents(machine)[0][1]
    assert packed[:128] == b"\x11" * 128
    assert not any(packed[128 : 5 * 128])
    assert packed[5 * 128 : 7 * 128] == b"\x22" * 256
    assert receiver.pages_in_round == 3


def test_receiver_clears_what_was_there_and_never_came(machine: FakeMachine) -> None:
    for region in machine.memory.regions:
        region.raw_data[: 3 * PAGE] = 5
        region.raw_tags[: 3 * 128] = 0x55
    receiver = PageReceiver(machine, PageInventory(machine), has_tags=True)
    placed = land(receiver, bytes([6]) * PAGE, (RAM, 1))
    receiver.take(Pages(Runs([Run(RAM, 1)]), placed, NoBytes.ZERO))

    receiver.clear_stale()

    (data, tags), (other_data, other_tags) = contents(machine)
    assert data[:PAGE] == bytes([6]) * PAGE
    assert not any(data[PAGE:])
    assert not any(tags)
    assert not any(other_data)
    assert not any(other_tags)


def test_receiver_deals_scattered_pages_out_to_both_regions(machine: FakeMachine) -> None:
    receiver = PageReceiver(machine, PageInventory(machine), has_tags=True)
    low, high = machine.memory.regions
    runs = Runs([Run(RAM + PAGE, 1), Run(RAM + 3 * PAGE, 2), Run(high.gpa, 1)])
    data = memoryview(b"".join(bytes([fill]) * PAGE for fill in (1, 2, 3, 4)))
    tags = memoryview(b"".join(bytes([fill]) * 128 for fill in (0x11, 0x22, 0x33, 0x44)))

    receiver.take(Pages(runs, (data,), tags))

    assert [bitmap.pages().tolist() for bitmap in machine.populated_pages()] == [[1, 3, 4], [0]]
    assert low.data[::PAGE].tolist()[:6] == [0, 1, 0, 2, 3, 0]
    assert low.tags[::128].tolist()[:6] == [0, 0x11, 0, 0x22, 0x33, 0]
    assert (high.data[0], high.data[PAGE], high.tags[127], high.tags[128]) == (4, 0, 0x44, 0)
    assert receiver.end_round() == 4


def test_receiver_places_scattered_runs_in_guest_ram_only_if_its_reader_scatters(
    machine: FakeMachine,
) -> None:
    high = machine.memory.regions[1]
    runs, data = ((RAM + PAGE, 1), (high.gpa, 2)), b"\1" * PAGE + b"\2" * (2 * PAGE)
    inventory = PageInventory(machine)

    directly = land(PageReceiver(machine, inventory, has_tags=True), data, *runs)

    assert [len(piece) for piece in directly] == [PAGE, 2 * PAGE]
    assert (machine.memory.regions[0].data[PAGE], high.data[2 * PAGE - 1]) == (1, 2)

    machine.memory.regions[0].raw_data[PAGE : 2 * PAGE] = 0
    slow = PageReceiver(machine, inventory, has_tags=True, scatters=False)
    buffered = land(slow, data, *runs)

    assert [len(piece) for piece in buffered] == [3 * PAGE]
    assert machine.memory.regions[0].data[PAGE] == 0
    slow.take(Pages(Runs(runs), buffered, NoBytes.ZERO))
    assert machine.memory.regions[0].data[PAGE] == 1


class Route:
    """A route that copies, and counts."""

    def __init__(self, machine: FakeMachine) -> None:
        self.region = machine.memory.regions[0]
        self.reads = self.writes = 0
        self.region.route(self)

    def read(self, gpa: Gpa, target: NDArray[np.uint8]) -> None:
        self.reads += 1
        target[:] = self.region.data[gpa - RAM : gpa - RAM + target.size]

    def write(self, gpa: Gpa, source: NDArray[np.uint8]) -> None:
        self.writes += 1
        self.region.raw_data[gpa - RAM : gpa - RAM + source.size] = source


def test_sender_reads_routed_memory_by_its_route_even_if_the_guest_is_paused(
    machine: FakeMachine,
) -> None:
    route = Route(machine)
    route.region.raw_data[: 2 * PAGE] = 5

    (record,) = sent_records(machine, 0, 1, is_live=False)

    assert isinstance(record.data, tuple)
    assert b"".join(record.data) == b"\5" * (2 * PAGE)
    assert route.reads == 1


def test_receiver_writes_routed_memory_by_its_route_once_the_batch_is_complete(
    machine: FakeMachine,
) -> None:
    route, receiver = Route(machine), PageReceiver(machine, PageInventory(machine), has_tags=True)
    one, two = memoryview(bytes([9]) * (2 * PAGE)), memoryview(bytes([8]) * (2 * PAGE))

    landing = land(receiver, one.tobytes(), (RAM + 4 * PAGE, 2))
    assert not route.region.data.any()
    receiver.take(Pages(Runs([Run(RAM + 4 * PAGE, 2)]), landing, NoBytes.ZERO))
    receiver.take(Pages(Runs([Run(RAM, 1), Run(RAM + 9 * PAGE, 1)]), (two,), NoBytes.ZERO))
    receiver.take(Pages(Runs([Run(RAM + 5 * PAGE, 1)]), NoBytes.ZERO, NoBytes.ZERO))

    rows = route.region.raw_data.reshape(-1, PAGE)
    assert {number: int(rows[number, 7]) for number in (0, 4, 5, 9)} == {0: 8, 4: 9, 5: 0, 9: 8}
    assert route.writes == 4


def test_digest_reads_routed_memory_by_its_route(machine: FakeMachine) -> None:
    machine.memory.regions[0].raw_data[: 2 * PAGE] = 5
    directly = memory_digest(MachinePages(machine), lambda: None, has_tags=True)
    route = Route(machine)

    assert memory_digest(MachinePages(machine), lambda: None, has_tags=True) == directly
    assert route.reads > 0
