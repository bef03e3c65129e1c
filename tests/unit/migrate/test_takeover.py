"""Which came first, the order to end or the take-over: one answer for both threads."""

import threading

import pytest

from tagalong.errors import MigrationCancelledError, MigrationError
from tagalong.machine import Machine, RunState
from tagalong.migrate import EndOrder
from tagalong.migrate.takeover import begin_take_over
from tagalong.wire import RecordType, Role
from tests.support.fake_machine import FakeMachine
from tests.support.migration import Migration


def test_order_before_the_take_over_forbids_it() -> None:
    order = EndOrder()

    assert order.set()

    assert order.is_set()
    with pytest.raises(MigrationCancelledError, match="the migration was cancelled"):
        begin_take_over(order)
    assert order.set()


def test_order_after_the_take_over_says_so_and_is_not_set() -> None:
    order = EndOrder()

    begin_take_over(order)

    assert not order.set()
    assert not order.is_set()


def test_order_and_take_over_at_once_have_one_winner() -> None:
    for _ in range(300):
        assert race(EndOrder()) in [(True, False), (False, True)]


def race(order: EndOrder) -> tuple[bool, bool]:
    """Order the end and take over in two threads at once; return who may."""
    start, won = threading.Barrier(2), []

    def take_over() -> None:
        start.wait()
        won.append(order.begin_take_over())

    thread = threading.Thread(target=take_over)
    thread.start()
    start.wait()
    was_in_time = order.set()
    thread.join()
    return was_in_time, won[0]


def test_plain_token_that_is_set_forbids_the_take_over() -> None:
    token = threading.Event()
    begin_take_over(token)
    begin_take_over(None)
    token.set()

    with pytest.raises(MigrationCancelledError):
        begin_take_over(token)


def test_end_ordered_while_commit_is_on_its_way_leaves_the_vm_at_the_source() -> None:
    source = FakeMachine()
    source.resume()
    order = EndOrder()
    started: list[Machine] = []

    def order_end(role: Role, _number: int, kind: RecordType, record: bytes) -> bytes:
        if (role, kind) == (Role.SOURCE, RecordType.COMMIT):
            assert order.set()
        return record

    outcome = Migration(
        source,
        rule=order_end,
        cancel_destination=order,
        take_over=lambda machine, _ran: started.append(machine),
    ).run()

    assert isinstance(outcome.source_error, MigrationError)
    assert "the peer ended the migration (CANCELLED)" in str(outcome.source_error)
    assert isinstance(outcome.destination_error, MigrationCancelledError)
    assert source.run_state is RunState.RUNNING
    assert started == []
    outcome.close()
