"""A tag check fault is tried again, page by page; what does not help is an error that says so."""

from collections.abc import Iterator

import numpy as np
import pytest

from tagalong.access import STRATEGIES, CallResult, Fault, Routine
from tagalong.access.accessor import Accessor
from tagalong.errors import AccessFaultError
from tagalong.memory import Gpa
from tests.support.fake_host import BASE, PAGE, FakeHost

LOST = Fault(11, 9, 0x0300_0002_0000_0010)


@pytest.fixture
def host() -> Iterator[FakeHost]:
    made = FakeHost()
    yield made
    made.close()


@pytest.fixture
def accessor(host: FakeHost) -> Accessor:
    return Accessor(STRATEGIES["match"](host), PAGE)


def test_read_without_a_fault_is_one_call(host: FakeHost, accessor: Accessor) -> None:
    accessor.read(BASE, np.zeros(3 * PAGE, np.uint8))

    assert len(host.calls) == 1


def test_read_that_loses_the_race_is_repeated_page_by_page(
    host: FakeHost, accessor: Accessor
) -> None:
    host.answer = lambda *_: CallResult(0, LOST if len(host.calls) in (1, 3, 4) else None)

    accessor.read(BASE, np.zeros(2 * PAGE + 7, np.uint8))

    assert [arguments[2] for _, arguments, _ in host.calls] == [
        2 * PAGE + 7, PAGE, PAGE, PAGE, PAGE, 7,
    ]  # fmt: skip


def test_guest_that_always_wins_is_an_error_that_says_what_to_do(
    host: FakeHost, accessor: Accessor
) -> None:
    host.answer = lambda *_: CallResult(0, LOST)

    with pytest.raises(AccessFaultError) as caught:
        accessor.write(Gpa(BASE + PAGE), np.zeros(PAGE, np.uint8))

    assert str(caught.value) == (
        "access strategy 'match' took SEGV_MTESERR at 0x300000200000010 at gpa 0x40001000 100 "
        "times in a row: the guest changes tags meanwhile; pause it, or choose another "
        "strategy with --access"
    )
    assert caught.value.exit_code == 29


def test_other_fault_is_not_tried_again(host: FakeHost, accessor: Accessor) -> None:
    host.answer = lambda *_: CallResult(0, Fault(7, 2, 0x40))

    with pytest.raises(AccessFaultError, match=r"took signal 7 code 2 at 0x40 at gpa 0x40000000$"):
        accessor.read_tags(BASE, np.zeros(PAGE // 32, np.uint8))

    assert len(host.calls) == 1


def test_runs_of_tags_are_one_row(host: FakeHost, accessor: Accessor) -> None:
    runs = np.array([[BASE + PAGE, 2 * PAGE], [BASE + 9 * PAGE, PAGE]], np.int64)

    packed = accessor.read_runs(runs)
    accessor.write_runs(runs, packed)

    assert packed.shape == (3 * 128,)
    assert [(routine, arguments[2]) for routine, arguments, _ in host.calls] == [
        (Routine.READ_TAGS, 256), (Routine.READ_TAGS, 128),
        (Routine.WRITE_TAGS, 256), (Routine.WRITE_TAGS, 128),
    ]  # fmt: skip
