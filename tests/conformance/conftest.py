"""The machines that every conformance test runs on: the same guests, the same assertions."""

from collections.abc import Callable, Iterator

import pytest

from tagalong.machine import Machine
from tagalong.soft import SoftMachine
from tests.support.running_guest import Boot, RunningGuest

MAKERS: dict[str, Callable[..., Machine]] = {"soft": SoftMachine.create}


@pytest.fixture(params=sorted(MAKERS))
def boot(request: pytest.FixtureRequest) -> Iterator[Boot]:
    """Return a function that starts a built-in guest; all are closed at the end."""
    started: list[RunningGuest] = []

    def start(guest: str, command_line: str = "", **options: int) -> RunningGuest:
        running = RunningGuest(MAKERS[request.param], guest, command_line, **options)
        started.append(running)
        return running

    yield start
    for running in started:
        running.close()
