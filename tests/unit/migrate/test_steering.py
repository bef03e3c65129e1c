"""Migrations that an operator pauses and lets go on, here or elsewhere."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tagalong.errors import HostError, MigrationError, UsageError
from tagalong.machine import RunState
from tagalong.migrate import (
    MigrationOptions,
    MigrationStage,
    SendProgress,
    SocketListener,
    Steering,
    TcpAddress,
    Timeouts,
    TlsCredentials,
    UnixAddress,
    connect,
    listen,
    migrate_to,
    receive_from,
)
from tests.support.certificates import Authority
from tests.support.fake_machine import FakeMachine, contents, describe
from tests.support.migration import channel_pair

TIMEOUTS = Timeouts(farewell_s=0.3)
ANY = TcpAddress("127.0.0.1", 0)


class Rig:
    """A migration that is paused at its first page, and resumed by the timer `resume`."""

    def __init__(
        self,
        *,
        reconnect_s: int = 20,
        tls: TlsCredentials | None = None,
        guest: Callable[[FakeMachine], None] | None = None,
    ) -> None:
        self.steering = Steering()
        self.stages: list[MigrationStage] = []
        self.options = MigrationOptions(
            verify=True, reconnect_s=reconnect_s, channels=2, timeouts=TIMEOUTS, tls=tls
        )
        self.source = FakeMachine(describe(0x40_0000), guest=guest)
        self.source.memory.regions[0].raw_data[:] = 0x5A
        self.source.memory.regions[0].raw_tags[:0x4000] = 0x37
        self.source.resume()
        found = listen(ANY, tls=tls)
        assert isinstance(found, SocketListener)
        self.listener = found
        self.arrived: list[FakeMachine] = []
        self.thread = threading.Thread(target=self._receive)
        self.thread.start()

    def _receive(self) -> None:
        try:
            machine = receive_from(self.listener, FakeMachine, timeouts=TIMEOUTS).machine
        except MigrationError:
            return
        assert isinstance(machine, FakeMachine)
        self.arrived.append(machine)

    def run(self, resume: threading.Timer | None) -> None:
        def watch(progress: SendProgress) -> None:
            if (
                progress.stage is MigrationStage.PRECOPY
                and MigrationStage.PRECOPY not in self.stages
            ):
                self.steering.pause()
                if resume is not None:
                    resume.start()
            self.stages.append(progress.stage)

        migrate_to(
            str(self.listener.address),
            self.source,
            self.options,
            progress=watch,
            steering=self.steering,
        )

    def close(self) -> None:
        self.thread.join(60)
        self.listener.close()
        for machine in (self.source, *self.arrived):
            machine.close()


@pytest.fixture
def rigs() -> Iterator[list[Rig]]:
    made: list[Rig] = []
    yield made
    for rig in made:
        rig.close()


def assert_moved(rig: Rig) -> None:
    rig.thread.join(60)
    assert MigrationStage.RECONNECT in rig.stages
    assert rig.source.run_state is RunState.PAUSED
    assert rig.arrived[0].run_state is RunState.RUNNING
    assert contents(rig.arrived[0]) == contents(rig.source)


def test_paused_migration_is_resumed_on_command(rigs: list[Rig]) -> None:
    rigs.append(rig := Rig())

    rig.run(threading.Timer(0.5, rig.steering.resume))

    assert_moved(rig)


def test_migration_that_is_paused_at_its_last_moment_is_resumed(rigs: list[Rig]) -> None:
    harvests: list[int] = []

    def pause_once(_machine: FakeMachine) -> None:
        if not harvests:
            rig.steering.pause()
            threading.Timer(0.3, rig.steering.resume).start()
        harvests.append(1)

    rigs.append(rig := Rig(guest=pause_once))
    report = migrate_to(str(rig.listener.address), rig.source, rig.options, steering=rig.steering)

    rig.thread.join(60)
    assert len(report.rounds) >= 3
    assert contents(rig.arrived[0]) == contents(rig.source)


def test_paused_migration_is_resumed_over_tls(rigs: list[Rig], tmp_path: Path) -> None:
    rigs.append(rig := Rig(tls=TlsCredentials(Authority(tmp_path).folder)))

    rig.run(threading.Timer(0.5, rig.steering.resume))

    assert_moved(rig)


def test_paused_migration_is_resumed_at_another_address(rigs: list[Rig], tmp_path: Path) -> None:
    rigs.append(rig := Rig())
    elsewhere = UnixAddress(tmp_path / "elsewhere")

    def move() -> None:
        rig.listener.move_to(elsewhere)
        rig.steering.resume(str(elsewhere))

    rig.run(threading.Timer(0.5, move))

    assert_moved(rig)
    assert rig.listener.address == elsewhere


def test_paused_migration_that_is_not_resumed_ends_with_the_guest_here(rigs: list[Rig]) -> None:
    rigs.append(rig := Rig(reconnect_s=1))

    with pytest.raises(MigrationError, match=r"did not come back in 1 s \(the migration is paused"):
        rig.run(None)

    assert rig.source.run_state is RunState.RUNNING
    rig.thread.join(60)
    assert not rig.arrived
    with pytest.raises(UsageError, match="no migration is paused: there is nothing to resume"):
        rig.steering.resume()
    with pytest.raises(UsageError, match="can be paused"):
        rig.steering.pause()


def test_cancelled_migration_can_be_neither_resumed_nor_paused() -> None:
    steering = Steering()
    steering.set_pausable(True)
    steering.pause()

    steering.close()
    steering.set_pausable(True)

    assert not steering.is_paused
    for command in (steering.resume, steering.pause):
        with pytest.raises(UsageError):
            command()


def test_connection_that_is_opened_while_paused_is_broken() -> None:
    steering = Steering()
    steering.set_pausable(True)
    steering.pause()
    near, far = channel_pair()

    with near, far:
        assert steering.register(near) is near

        assert far.receive_into(memoryview(bytearray(1))) == 0


def test_migration_that_may_not_reconnect_cannot_be_paused(rigs: list[Rig]) -> None:
    rigs.append(rig := Rig(reconnect_s=0))

    with pytest.raises(MigrationError, match=r"may reconnect \(x-reconnect\) can be paused"):
        rig.run(None)

    assert rig.source.run_state is RunState.RUNNING


def test_recovery_of_nothing_is_refused() -> None:
    steering = Steering()

    with pytest.raises(UsageError, match="can be paused"):
        steering.pause()
    with pytest.raises(UsageError, match="no migration is paused"):
        steering.resume()


@pytest.mark.parametrize("uri", ["file:/tmp/x", "exec:cat", "fd:3"])
def test_paused_migration_is_not_resumed_at_an_address_of_one_connection(uri: str) -> None:
    steering = Steering()
    steering.set_pausable(True)
    steering.pause()

    with pytest.raises(UsageError, match="can be resumed at tcp:HOST:PORT or unix:PATH only"):
        steering.resume(uri)

    assert steering.is_paused


def test_listener_moves_and_leaves_nothing_behind(tmp_path: Path) -> None:
    before, after = UnixAddress(tmp_path / "a"), UnixAddress(tmp_path / "b")
    with listen(before) as listener:
        assert isinstance(listener, SocketListener)

        listener.move_to(after)

        assert not before.path.exists()
        with connect(after, timeout_s=60, idle_s=60), listener.accept(idle_s=60, timeout_s=60):
            pass
    assert not after.path.exists()


def test_listener_that_cannot_move_stays(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with listen(UnixAddress(tmp_path / "a")) as listener:
        assert isinstance(listener, SocketListener)

        with pytest.raises(HostError, match="taken: cannot listen"):
            listener.move_to(UnixAddress(tmp_path / "taken"))

        with connect(listener.address, timeout_s=60, idle_s=60):
            listener.accept(idle_s=60, timeout_s=60).close()


def test_limits_that_are_tuned_count_at_once() -> None:
    source = FakeMachine(describe(0x200_0000))
    source.memory.regions[0].raw_data[:] = 0x5A
    source.resume()
    steering, arrived = Steering(), []

    def watch(progress: SendProgress) -> None:
        if progress.pages_sent:
            steering.tune(MigrationOptions())

    with listen(ANY) as listener:
        thread = threading.Thread(
            target=lambda: arrived.append(receive_from(listener, FakeMachine).machine)
        )
        thread.start()
        # At this rate it would take more than eight hours.
        slow = MigrationOptions(max_bandwidth=1000.0)
        report = migrate_to(str(listener.address), source, slow, progress=watch, steering=steering)
        thread.join(60)

    assert report.duration_s < 60
    assert arrived[0].run_state is RunState.RUNNING
    for machine in (source, *arrived):
        machine.close()


def test_tuning_leaves_alone_what_is_no_limit() -> None:
    steering = Steering()
    began = MigrationOptions(channels=3, verify=True, max_rounds=7)
    assert steering.tuned(began) is began

    steering.tune(MigrationOptions(channels=9, max_rounds=8, max_bandwidth=5.0))

    assert steering.tuned(began) == MigrationOptions(
        channels=3, verify=True, max_rounds=8, max_bandwidth=5.0
    )
