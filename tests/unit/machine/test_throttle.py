"""How much of the time a throttled guest runs."""

import threading
import time

import pytest

from tagalong.errors import UsageError
from tagalong.machine.holds import VcpuHolds
from tagalong.machine.throttle import Throttle


class Clock(VcpuHolds):
    """Counts how often and for how long the vCPUs were stopped."""

    def __init__(self) -> None:
        condition = threading.Condition()
        super().__init__(condition, self._stop)
        self.stopped_s = 0.0
        self.stops = 0
        self._since = 0.0
        self.throttle = Throttle(condition, self)

    def _stop(self) -> None:
        self.stops += 1
        self._since = time.monotonic()

    def release(self) -> None:
        super().release()
        self.stopped_s += time.monotonic() - self._since


def throttle_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "throttle"]


@pytest.mark.parametrize("percent", [20, 50, 90])
def test_throttle_stops_the_vcpus_for_its_share(percent: int) -> None:
    # Wake-ups come late on a busy host, and late on both sides: one look in many may be right.
    for _ in range(30):
        clock, began = Clock(), time.monotonic()

        clock.throttle.set(percent)
        time.sleep(0.6)
        clock.throttle.set(0)

        share = clock.stopped_s / (time.monotonic() - began)
        if share == pytest.approx(percent / 100, abs=0.2):
            break
    assert share == pytest.approx(percent / 100, abs=0.2)


def test_throttle_that_ends_lets_go_at_once_and_leaves_no_thread() -> None:
    shortest_s = 60.0
    for _ in range(10):
        clock = Clock()
        clock.throttle.set(99)
        while not clock.stops:
            time.sleep(0.005)

        began = time.monotonic()
        clock.throttle.set(0)
        for thread in throttle_threads():
            thread.join(60)
        shortest_s = min(shortest_s, time.monotonic() - began)
        assert not throttle_threads()
        if shortest_s < 0.5:
            break

    assert shortest_s < 0.5  # not the 0.99 s for which the vCPUs would have been stopped


def test_throttle_set_again_uses_the_same_thread() -> None:
    clock = Clock()
    clock.throttle.set(10)
    clock.throttle.set(60)

    assert len(throttle_threads()) == 1
    clock.throttle.set(0)


@pytest.mark.parametrize("percent", [-1, 100])
def test_throttle_out_of_range_is_refused(percent: int) -> None:
    with pytest.raises(UsageError, match=f"cannot throttle by {percent} %: give 0 to 99 percent"):
        Clock().throttle.set(percent)
