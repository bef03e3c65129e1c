"""Rejected peers are reported at once, until there are many."""

import pytest

from tagalong.errors import HostError
from tagalong.migrate.transport import refusals
from tagalong.migrate.transport.refusals import RefusalReports


class Clock:
    """A clock that tests turn."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(refusals, "time", clock)
    return clock


def test_few_refusals_are_reported_at_once(clock: Clock) -> None:
    said: list[HostError] = []
    reports = RefusalReports(said.append)
    errors = [HostError(f"peer {number}") for number in range(3)]

    for error in errors:
        reports.add(error)
    clock.now += 60
    reports.flush()

    assert said == errors


def test_many_refusals_become_one_report_a_period(clock: Clock) -> None:
    said: list[HostError] = []
    reports = RefusalReports(said.append)

    for number in range(1000):
        reports.add(HostError(f"peer {number}"))
    reports.flush()
    assert len(said) == 3
    clock.now += 10.1
    reports.flush()
    reports.add(HostError("a later peer"))

    assert [str(error) for error in said[3:]] == [
        "997 more connections in 10 s, the last one: peer 999",
        "a later peer",
    ]


def test_withheld_refusals_are_reported_at_the_end(clock: Clock) -> None:
    said: list[HostError] = []
    reports = RefusalReports(said.append)
    for number in range(5):
        reports.add(HostError(f"peer {number}"))

    reports.flush(at_end=True)
    reports.flush(at_end=True)

    assert str(said[-1]) == "2 more connections in 10 s, the last one: peer 4"
    assert len(said) == 4
    assert clock.now == 100.0
