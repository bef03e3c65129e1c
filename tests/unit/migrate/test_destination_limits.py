"""How long a source may keep a destination waiting: for each stage in total."""

import threading
import time
from collections.abc import Sequence
from contextlib import suppress

from tagalong.errors import HostError, MigrationError
from tagalong.machine_records import record_of_description, record_of_state
from tagalong.migrate import Channel, Timeouts, receive
from tagalong.wire import (
    Accept,
    Connection,
    Hello,
    KeepAlive,
    NeedData,
    Prepare,
    Ready,
    Record,
    Role,
)
from tests.support.fake_machine import FakeMachine
from tests.support.migration import channel_pair
from tests.support.wire_session import MIGRATION_ID


def script_of(machine: FakeMachine) -> Sequence[Record | type[Record]]:
    """Return what a source says, and the types of what it waits for."""
    state = record_of_state(machine.peek_state())
    return (
        Hello(Role.SOURCE, MIGRATION_ID),
        Hello,
        record_of_description(machine.description),
        state,
        Accept,
        state,
        Prepare(),
        Ready,
    )


def keep_alive(near: Channel, connection: Connection, seconds: float) -> None:
    """Send KEEPALIVEs for a while, or until the peer hears no more of them."""
    until = time.monotonic() + seconds
    with suppress(HostError):
        while time.monotonic() < until:
            near.send(connection.send(KeepAlive()), deadline=time.monotonic() + 60)
            time.sleep(0.01)


def follow(near: Channel, connection: Connection, step: Record | type[Record]) -> None:
    """Send a record, or wait for one. Raises HostError if the peer has left."""
    if not isinstance(step, type):
        near.send(connection.send(step))
        return
    while isinstance(connection.next_record(), NeedData):
        if not near.receive_into(buffer := connection.receive_buffer()[:1]):
            raise HostError("the peer has left")
        connection.received(len(buffer))


def flood_after(limit_s: float, steps: int, slow: Sequence[int] = ()) -> tuple[float, str]:
    """Follow the script for so many steps, then send KEEPALIVEs; return when it ends, and how.

    Before each of the steps `slow` they are sent for most of the limit.
    """
    source, built = FakeMachine(), []
    near, far = channel_pair(idle_s=60)
    failure: list[MigrationError] = []

    def build(description: object) -> FakeMachine:
        del description
        built.append(FakeMachine())
        return built[-1]

    def run() -> None:
        try:
            receive(far, build, timeouts=Timeouts(answer_s=limit_s, farewell_s=0.3))
        except MigrationError as error:
            failure.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    connection = Connection(Role.SOURCE)
    with near:
        with suppress(HostError):  # a destination that has given up is what some tests want
            for number, step in enumerate(script_of(source)[:steps]):
                if number in slow:
                    keep_alive(near, connection, limit_s * 0.7)
                follow(near, connection, step)
        began = time.monotonic()
        keep_alive(near, connection, 60)
        thread.join(60)
    took_s = time.monotonic() - began
    for machine in (source, *built):
        machine.close()
    return took_s, str(failure[0])


def test_keepalives_alone_end_every_stage() -> None:
    for steps in (2, 3, 6, 8):
        took_s, why = flood_after(0.4, steps)

        assert "its time is up" in why, steps
        assert took_s < 30


def test_records_extend_no_stage() -> None:
    # The description comes late and the state too late; PREPARE late and COMMIT not at all.
    for steps, slow in ((4, (2, 3)), (8, (6,))):
        took_s, why = flood_after(2.0, steps, slow)

        assert "its time is up" in why, steps
        assert took_s < 1.4, steps  # 0.6 s are left; one limit a record would be 2 s
