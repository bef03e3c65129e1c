"""A guest with much RAM, of which little is used: what is not used costs nothing."""

import threading

import pytest

from tagalong.migrate import MigrationOptions
from tests.support.fake_machine import FakeMachine, describe
from tests.support.migration import PATIENT, Migration, Outcome

RAM_BYTES = 64 << 30
STRETCH = 1 << 20
USED_BYTES = 64 * STRETCH


def resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


class Watch:
    """Keeps the peak of this process's memory, looked at all the time."""

    def __init__(self) -> None:
        self.peak = resident_bytes()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._done.wait(0.005):
            self.peak = max(self.peak, resident_bytes())

    def stop(self) -> int:
        self._done.set()
        self._thread.join()
        return max(self.peak, resident_bytes())


@pytest.mark.parametrize("channels", [1, 4])
def test_large_guest_that_has_used_little_costs_what_it_used(
    outcomes: list[Outcome], channels: int
) -> None:
    source = FakeMachine(describe(RAM_BYTES))
    region = source.memory.regions[0]
    for number in range(64):
        start = number * (RAM_BYTES // 64)
        region.raw_data[start : start + STRETCH] = number + 1
        region.raw_tags[start // 32] = 0x21
    before = resident_bytes()
    watch = Watch()

    options = MigrationOptions(channels=channels, timeouts=PATIENT)
    outcome = Migration(source, options).run().raise_if_failed()
    outcomes.append(outcome)

    grown = watch.stop() - before
    # Both ends are in this process, and only one has to get what was used.
    assert grown < USED_BYTES + 2 * (64 << 20)
    assert outcome.report is not None
    assert outcome.report.rounds[0].pages == USED_BYTES // 4096
    arrived = outcome.destination.memory.regions[0]
    used = arrived.data_pages()
    assert used.count() == USED_BYTES // 4096
    for number in range(64):
        start = number * (RAM_BYTES // 64)
        assert (arrived.data[start : start + STRETCH] == number + 1).all()
        assert arrived.tags[start // 32] == 0x21
    assert outcome.report.duration_s < 60


def test_zero_pages_that_were_touched_stay_holes_at_the_destination(
    outcomes: list[Outcome],
) -> None:
    source = FakeMachine(describe(256 << 20))
    region = source.memory.regions[0]
    region.raw_data[:] = 0
    region.raw_data[5 * 4096] = 1

    outcome = Migration(source, MigrationOptions(timeouts=PATIENT)).run().raise_if_failed()
    outcomes.append(outcome)

    assert outcome.report is not None
    assert outcome.report.rounds[0].pages == 65536
    assert outcome.report.bytes_sent < 64 << 10
    assert outcome.destination.memory.regions[0].data_pages().pages().tolist() == [5]
