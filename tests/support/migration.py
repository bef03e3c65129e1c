"""Runs whole migrations between two threads of a test, over real sockets."""

import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tagalong.machine import Machine, MachineDescription
from tagalong.migrate import (
    Address,
    Arrival,
    CancelToken,
    Channel,
    MachineBuilder,
    MigrationOptions,
    MigrationReport,
    SendProgress,
    TakeOver,
    Timeouts,
    listen,
    migrate,
    migrate_to,
    parse_address,
    receive,
    receive_from,
    resume_if_it_ran,
)
from tests.support.caller import ring_off
from tests.support.fake_machine import FakeMachine
from tests.support.proxy import Proxy, Rule

PATIENT = Timeouts(farewell_s=0.3)
"""For what must not fail because the test's machine is busy."""

QUICK = Timeouts(idle_s=0.8, farewell_s=0.3)
"""For what has to time out."""

TCP = "tcp:127.0.0.1:0"


@dataclass
class Outcome:
    """What became of a migration at either end: a value or an error, never both."""

    source: FakeMachine
    report: MigrationReport | None = None
    source_error: BaseException | None = None
    arrival: Arrival | None = None
    destination_error: BaseException | None = None
    built: list[FakeMachine] = field(default_factory=list)

    @property
    def destination(self) -> FakeMachine:
        """Return the machine that was built."""
        (machine,) = self.built
        return machine

    def raise_if_failed(self) -> "Outcome":
        for error in (self.source_error, self.destination_error):
            if error is not None:
                raise error
        return self

    def close(self) -> None:
        for machine in (self.source, *self.built):
            machine.close()


@dataclass
class Migration:
    """A migration to be run; every field but `source` has a default that works."""

    source: FakeMachine
    options: MigrationOptions = field(default_factory=lambda: MigrationOptions(timeouts=PATIENT))
    listen_at: str = TCP
    build: Callable[[MachineDescription], Machine] = FakeMachine
    take_over: TakeOver = resume_if_it_ran
    rule: Rule | None = None
    target: list[int] | None = None  # gets the listener's port
    progress: Callable[[SendProgress], None] | None = None
    cancel: CancelToken | None = None
    cancel_destination: CancelToken | None = None

    def run(self) -> Outcome:
        """Run it over a listener at `listen_at`."""
        with listen(parse_address(self.listen_at)) as listener:
            return self._run(
                lambda build, chosen: receive_from(listener, build, **chosen),
                lambda outcome: self._send_or_ring_off(outcome, listener.address),
            )

    def run_over(self, source: Channel, destination: Channel) -> Outcome:
        """Run it over two channels that are connected."""
        return self._run(
            lambda build, chosen: receive(destination, build, **chosen),
            lambda outcome: self._migrate(outcome, source),
        )

    def _run(
        self,
        receive_by: Callable[[MachineBuilder, dict[str, Any]], Arrival],
        send: Callable[[Outcome], None],
    ) -> Outcome:
        outcome = Outcome(self.source)
        chosen = {
            "take_over": self.take_over,
            "timeouts": self.options.timeouts,
            "cancel": self.cancel_destination,
        }

        def receive_one() -> None:
            try:
                outcome.arrival = receive_by(lambda it: self._build(outcome, it), chosen)
            except Exception as error:  # noqa: BLE001 (the test looks at it)
                outcome.destination_error = error

        thread = threading.Thread(target=receive_one)
        thread.start()
        try:
            send(outcome)
        finally:
            thread.join(30)
        assert not thread.is_alive(), "the destination hangs"
        return outcome

    def _build(self, outcome: Outcome, description: MachineDescription) -> Machine:
        machine = self.build(description)
        assert isinstance(machine, FakeMachine)
        outcome.built.append(machine)
        return machine

    def _send_or_ring_off(self, outcome: Outcome, address: Address) -> None:
        self._send(outcome, str(address))
        if outcome.source_error is not None:
            ring_off(address)

    def _send(self, outcome: Outcome, uri: str) -> None:
        if self.rule is None:
            self._migrate(outcome, uri)
            return
        if self.target is not None:
            self.target.append(int(uri.rpartition(":")[2]))
        with Proxy(uri, self.rule) as proxy:
            self._migrate(outcome, proxy.uri)

    def _migrate(self, outcome: Outcome, where: str | Channel) -> None:
        how: Any = migrate_to if isinstance(where, str) else migrate
        try:
            outcome.report = how(
                where, self.source, self.options, progress=self.progress, cancel=self.cancel
            )
        except Exception as error:  # noqa: BLE001 (the test looks at it)
            outcome.source_error = error


def channel_pair(idle_s: float = QUICK.idle_s) -> tuple[Channel, Channel]:
    """Return two channels that are connected to each other."""
    one, other = socket.socketpair()
    return Channel(one, "one", idle_s=idle_s), Channel(other, "other", idle_s=idle_s)
