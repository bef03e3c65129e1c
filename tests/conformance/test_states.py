"""Every call of a Machine in every state: it does its work, or says by name why not."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from tagalong.errors import RunStateError, TagalongError
from tagalong.machine import Machine, MachineState, RunState
from tests.support import a64
from tests.support.bare import DATA
from tests.support.bare_program import Maker

PAGES = np.array([1, 3], np.int64)

RUNNING = "the machine is running: pause it first"
CLOSED = "the machine is closed"
OVER = "cannot {} the machine: its state is {!r}, which is final"

Call = Callable[[Machine, MachineState], object]


def hold(machine: Machine) -> None:
    with machine.hold_if_paused():
        pass


def rows(machine: Machine) -> NDArray[np.uint8]:
    """Return zero tags for PAGES, a row each."""
    return np.zeros((PAGES.size, machine.description.page_size_bytes // 32), np.uint8)


def log_once(machine: Machine) -> None:
    machine.start_dirty_log()
    machine.harvest_dirty_log()
    machine.stop_dirty_log()


CALLS: dict[str, Call] = {
    "wait": lambda machine, _: machine.wait(0),
    "throttle": lambda machine, _: machine.throttle(0),
    "hold_if_paused": lambda machine, _: hold(machine),
    "read_tags": lambda machine, _: machine.read_tags(DATA, 64),
    "write_tags": lambda machine, _: machine.write_tags(DATA, rows(machine)[0]),
    "write_tags of a part": lambda machine, _: machine.write_tags(DATA, rows(machine)[0][:1]),
    "read_page_tags": lambda machine, _: machine.read_page_tags(0, PAGES),
    "write_page_tags": lambda machine, _: machine.write_page_tags(0, PAGES, rows(machine)),
    "use_access": lambda machine, _: machine.use_access("auto"),
    "populated_pages": lambda machine, _: machine.populated_pages(),
    "dirty log": lambda machine, _: log_once(machine),
    "stop_dirty_log": lambda machine, _: machine.stop_dirty_log(),
    "save_state": lambda machine, _: machine.save_state(),
    "peek_state": lambda machine, _: machine.peek_state(),
    "check_state": lambda machine, state: machine.check_state(state),
    "load_state": lambda machine, state: machine.load_state(state),
    "get_register": lambda machine, state: machine.vcpus[0].get_register(
        next(iter(state.vcpus[0].registers))
    ),
    "pause": lambda machine, _: machine.pause(),
    "resume": lambda machine, _: machine.resume(),
    "reset": lambda machine, _: machine.reset(),
    "close": lambda machine, _: machine.close(),
}
NEEDS_PAUSE = {"save_state", "check_state", "load_state", "get_register", "reset"}
CHANGES_STATE = {"pause", "resume", "reset", "close"}
WORKS_CLOSED = {"wait", "pause", "close"}


def said(call: Call, machine: Machine, state: MachineState) -> str:
    """Return the text of the RunStateError that a call raises, "" if it raises nothing."""
    try:
        call(machine, state)
    except RunStateError as error:
        return str(error)
    except TagalongError as error:
        return repr(error)
    return ""


def run(machine: Machine) -> None:
    machine.resume()


def power_off(machine: Machine) -> None:
    machine.resume()
    assert machine.wait(60) is RunState.SHUTDOWN


def close(machine: Machine) -> None:
    machine.close()


def in_state(
    bare: Maker, words: list[int], enter: Callable[[Machine], None]
) -> tuple[Machine, MachineState]:
    machine = bare(words).machine
    state = machine.save_state()
    enter(machine)
    return machine, state


LOOP = [a64.b(0)]
OFF: list[int] = []  # bare programs end with SYSTEM_OFF


@pytest.mark.parametrize(
    ("name", "words", "enter"),
    [
        ("paused", LOOP, lambda _: None),
        ("running", LOOP, run),
        ("shutdown", OFF, power_off),
        ("closed", LOOP, close),
    ],
)
def test_every_call_in_a_state_works_or_says_why_not(
    bare: Maker, name: str, words: list[int], enter: Callable[[Machine], None]
) -> None:
    expected = dict.fromkeys(CALLS, "")
    if name == "running":
        expected.update(dict.fromkeys(NEEDS_PAUSE, RUNNING))
    if name == "shutdown":
        for order in ("resume", "reset"):
            expected[order] = OVER.format(order, "shutdown")
    if name == "closed":
        expected.update(dict.fromkeys(CALLS.keys() - WORKS_CLOSED, CLOSED))
    found = {}

    machine, state = in_state(bare, words, enter)
    for call_name, call in CALLS.items():
        if call_name in CHANGES_STATE:
            machine, state = in_state(bare, words, enter)
        found[call_name] = said(call, machine, state)

    assert found == expected


def test_harvest_without_a_log_is_refused(bare: Maker) -> None:
    machine = bare(LOOP).machine

    with pytest.raises(RunStateError, match="the dirty log was not started"):
        machine.harvest_dirty_log()
    machine.start_dirty_log()
    machine.stop_dirty_log()
    machine.stop_dirty_log()
    with pytest.raises(RunStateError, match="the dirty log was not started"):
        machine.harvest_dirty_log()
