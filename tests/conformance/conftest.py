"""The machines that every conformance test runs on: the same guests, the same assertions.

TAGALONG_MACHINES (names, separated by blanks) says which; each has to work then. Without it
the tests run on `soft`, and on `kvm` where this host can do it.
"""

import os
from collections.abc import Callable, Iterator

import pytest

from tagalong.kvm import KvmMachine, why_not
from tagalong.machine import Machine
from tagalong.soft import SoftMachine
from tests.support.running_guest import Boot, RunningGuest

MAKERS: dict[str, Callable[..., Machine]] = {
    "soft": SoftMachine.create,
    "kvm": KvmMachine.create,
}


def machines() -> list[str]:
    """Return the names of the machines to test."""
    asked = os.environ.get("TAGALONG_MACHINES", "").split()
    if asked:
        return asked
    return ["soft"] if why_not() is not None else ["soft", "kvm"]


@pytest.fixture(params=machines())
def machine_name(request: pytest.FixtureRequest) -> str:
    """Return the name of the machine under test."""
    return str(request.param)


@pytest.fixture
def boot(machine_name: str) -> Iterator[Boot]:
    """Return a function that starts a built-in guest; all are closed at the end.

    `on` names another machine than the one under test.
    """
    started: list[RunningGuest] = []

    def start(
        guest: str, command_line: str = "", *, on: str = machine_name, **options: int
    ) -> RunningGuest:
        running = RunningGuest(MAKERS[on], guest, command_line, **options)
        started.append(running)
        return running

    yield start
    for running in started:
        running.close()
