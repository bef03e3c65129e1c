"""Monitors: what is reported when, and how work is cancelled."""

import threading
from dataclasses import dataclass

import pytest

from tagalong.errors import HostError
from tagalong.progress import Monitor


@dataclass(frozen=True)
class Copied:
    stage: str = "begin"
    done_bytes: int = 0

    @property
    def step(self) -> object:
        return self.stage


def enough() -> HostError:
    return HostError("enough")


def test_update_reports_a_new_step_at_once_and_other_changes_when_they_are_due(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [50.0]
    monkeypatch.setattr("tagalong.progress.time.monotonic", lambda: now[0])
    told: list[Copied] = []
    monitor = Monitor(Copied(), told.append, None, enough)

    monitor.update(done_bytes=1)  # the first one is due
    monitor.update(done_bytes=2)  # no time has passed
    monitor.update(stage="end")
    now[0] += 0.09
    monitor.update(done_bytes=3)
    now[0] += 0.02
    monitor.update(done_bytes=4)

    assert told == [Copied("begin", 1), Copied("end", 2), Copied("end", 4)]
    assert monitor.moment == Copied("end", 4)


def test_note_changes_the_moment_and_reports_nothing() -> None:
    told: list[Copied] = []
    cancel = threading.Event()
    cancel.set()
    monitor = Monitor(Copied(), told.append, cancel, enough)

    monitor.note(stage="end")

    assert (monitor.moment, told) == (Copied("end"), [])


def test_update_once_cancelled_raises_and_changes_nothing() -> None:
    told: list[Copied] = []
    cancel = threading.Event()
    monitor = Monitor(Copied(), told.append, cancel, enough)
    monitor.update(done_bytes=1)

    cancel.set()
    with pytest.raises(HostError, match=r"\Aenough\Z"):
        monitor.update(stage="end")

    assert told == [monitor.moment] == [Copied("begin", 1)]


def test_update_without_callback_and_token_changes_the_moment() -> None:
    monitor = Monitor(Copied(), None, None, enough)

    monitor.update(stage="end", done_bytes=7)

    assert monitor.moment == Copied("end", 7)


def test_update_passes_on_what_the_callback_raises() -> None:
    def broken(_moment: Copied) -> None:
        raise ZeroDivisionError("a bug of the caller")

    monitor = Monitor(Copied(), broken, None, enough)

    with pytest.raises(ZeroDivisionError):
        monitor.update(done_bytes=1)
