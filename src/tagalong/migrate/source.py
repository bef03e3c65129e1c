"""The source of a migration: sends a machine away, and keeps it if anything fails.

    SetUp        the destination accepts the machine, and its state as of now, or rejects both
    PreCopy      rounds of pages while the guest runs, until little enough remains
    SwitchOver   the guest is paused; its last pages and its state follow, and it changes hands

Until COMMIT, every failure ends with the guest running here. COMMIT gives up the right to run:
after it only the destination's ABORT returns the guest, and silence is HandoverUncertainError
(docs/formats/stream.md, section 8, names every moment).
"""

import contextlib
import secrets
import time
from collections.abc import Iterator

from tagalong.errors import (
    HandoverUncertainError,
    HostError,
    MigrationError,
    MigrationStage,
    TagalongError,
)
from tagalong.machine import Machine
from tagalong.migrate.cancellation import cancelled, check_cancelled
from tagalong.migrate.endpoint import connect
from tagalong.migrate.options import MigrationOptions, require_possible
from tagalong.migrate.precopy import PreCopy
from tagalong.migrate.reconnection import Connect, Recovery
from tagalong.migrate.report import MigrationReport, SendProgress
from tagalong.migrate.session import SourceSession
from tagalong.migrate.setup import SetUp
from tagalong.migrate.steering import Steering
from tagalong.migrate.switchover import SwitchedOver, SwitchOver
from tagalong.migrate.transport.address import TcpAddress, UnixAddress, parse_address
from tagalong.migrate.transport.channel import Channel
from tagalong.progress import CancelToken, Monitor, ProgressCallback
from tagalong.wire.codec import MIGRATION_ID_BYTES


def migrate_to(
    uri: str,
    machine: Machine,
    options: MigrationOptions | None = None,
    *,
    progress: ProgressCallback[SendProgress] | None = None,
    cancel: CancelToken | None = None,
    steering: Steering | None = None,
) -> MigrationReport:
    """Connect to the destination at `uri` and migrate `machine` there.

    `steering` lets an operator pause it, say where it continues, set other limits and decide about
    the guest's stop. Raises UsageError if `uri` is no address, MigrationError if nothing listens
    there, and all that `migrate` raises.

    >>> migrate_to("tcp:127.0.0.1:4444", machine)  # doctest: +SKIP
    """
    options = options or MigrationOptions()
    address = parse_address(uri)
    steering = steering or Steering()

    def open_connection(timeout_s: float) -> Channel:
        channel = connect(
            steering.address or address,
            timeout_s=min(timeout_s, options.timeouts.connect_s),
            idle_s=options.timeouts.idle_s,
            interrupt=lambda: check_cancelled(cancel),
            tls=options.tls,
        )
        return steering.register(channel)

    monitor = _new_monitor(machine, progress, cancel)
    require_possible(address, options)
    with _errors_name_their_stage(monitor):
        try:
            channel = open_connection(options.timeouts.connect_s)
        except HostError as error:
            raise MigrationError(f"the migration did not begin: {error}") from error
        with channel:
            session = SourceSession(channel, machine, options, monitor, cancel, steering)
            has_more = isinstance(address, TcpAddress | UnixAddress)
            return _Source(session, open_connection if has_more else None).run()


def migrate(
    channel: Channel,
    machine: Machine,
    options: MigrationOptions | None = None,
    *,
    progress: ProgressCallback[SendProgress] | None = None,
    cancel: CancelToken | None = None,
    connect_again: Connect | None = None,
) -> MigrationReport:
    """Migrate `machine` to the destination at the other end of `channel`, which is closed.

    `connect_again` opens further connections to it; without it there is one, whatever `options`
    ask for. `progress` is called in this thread. Afterwards the machine here is paused and must
    not be resumed: the destination has it. It runs there if it ran here when it was stopped for
    its last pages.

    Raises MigrationError or one of its subclasses, with the cause chained and the stage set. The
    machine is then as it was, and runs if it ran before. The one exception is
    HandoverUncertainError: the machine is paused, and must stay so until the operator has looked
    at the destination.
    """
    options = options or MigrationOptions()
    monitor = _new_monitor(machine, progress, cancel)
    with channel, _errors_name_their_stage(monitor):
        session = SourceSession(channel, machine, options, monitor, cancel, Steering())
        return _Source(session, connect_again).run()


def _new_monitor(
    machine: Machine, progress: ProgressCallback[SendProgress] | None, cancel: CancelToken | None
) -> Monitor[SendProgress]:
    description = machine.description
    beginning = SendProgress(
        MigrationStage.CONNECT, 0, description.ram_bytes, 0, 0, 0, 0,
        page_size_bytes=description.page_size_bytes,
    )  # fmt: skip
    return Monitor(beginning, progress, cancel, cancelled)


@contextlib.contextmanager
def _errors_name_their_stage(monitor: Monitor[SendProgress]) -> Iterator[None]:
    """Let every MigrationError that leaves carry what the source was at."""
    try:
        yield
    except MigrationError as error:
        error.stage = monitor.moment.stage
        raise


class _Source:
    """Runs the phases one after the other, and decides who has the VM when one of them fails."""

    def __init__(self, session: SourceSession, connect_again: Connect | None) -> None:
        self._session = session
        guest_id = session.machine.description.guest_id
        self._id = secrets.token_bytes(MIGRATION_ID_BYTES - len(guest_id)) + guest_id
        self._began = time.monotonic()
        self._set_up = SetUp(session, connect_again)
        self._precopy = PreCopy(session)
        self._switch_over = SwitchOver(session, self._precopy)

    def run(self) -> MigrationReport:
        try:
            switched = self._run_phases()
        except BaseException as error:
            if self._is_uncertain:
                raise self._uncertain(error) from error
            self._fall_back(error)
            if isinstance(error, MigrationError):
                raise
            if isinstance(error, TagalongError | OSError | MemoryError):
                raise self._failure(error) from error
            raise
        finally:
            self._session.steering.close()
            self._leave_machine_as_it_was()
            self._session.senders.close()
        return self._report(switched)

    def _run_phases(self) -> SwitchedOver:
        steering = self._session.steering
        recovery = Recovery(self._session, self._set_up.run(self._id))
        steering.set_pausable(recovery.is_possible)
        left = self._precopy.run(recovery.recover)
        return self._switch_over.run(left)

    @property
    def _is_uncertain(self) -> bool:
        return self._switch_over.has_committed and not self._session.link.was_aborted_by_peer

    def _fall_back(self, error: BaseException) -> None:
        """Let the guest run here again, then send ABORT to the destination."""
        self._leave_machine_as_it_was()
        try:
            self._switch_over.undo()
        except TagalongError as problem:
            error.add_note(f"and the guest could not be resumed: {problem}")
        self._session.link.abort(error)

    def _leave_machine_as_it_was(self) -> None:
        # A failure of these must lose neither a VM nor a success.
        with contextlib.suppress(TagalongError):
            self._session.machine.throttle(0)
        with contextlib.suppress(TagalongError):
            self._session.machine.stop_dirty_log()

    def _failure(self, error: BaseException) -> MigrationError:
        stage = self._session.monitor.moment.stage.value
        return MigrationError(f"the migration failed ({stage}), the VM stays here: {error}")

    def _uncertain(self, error: BaseException) -> HandoverUncertainError:
        name = self._id.hex()
        return HandoverUncertainError(
            f"migration {name}: the right to run was given to the destination, which did not "
            f"confirm that it has the VM ({error}). The VM stays paused here. Look at the "
            f"destination: if it took over migration {name}, end the VM here; if it did not, "
            "and only then, reclaim it here (x-reclaim)"
        )

    def _report(self, switched: SwitchedOver) -> MigrationReport:
        session = self._session
        rounds = tuple(self._precopy.rounds)
        copying_s = sum(each.duration_s for each in rounds)
        bytes_sent = session.senders.bytes_sent
        source, destination = switched.digests or (None, None)
        return MigrationReport(
            migration_id=self._id.hex(),
            ram_bytes=session.machine.description.ram_bytes,
            rounds=rounds,
            downtime=switched.downtime,
            duration_s=time.monotonic() - self._began,
            bytes_sent=bytes_sent,
            throughput_bytes_per_s=bytes_sent / max(copying_s, 1e-6),
            dirty_rate_bytes_per_s=session.estimate.dirty_rate or 0.0,
            was_running=switched.ran,
            tags_dropped=session.options.drop_tags,
            throttle_percent=session.monitor.moment.throttle_percent,
            one_way=session.is_one_way,
            tags_in_place=session.machine.description.tags_in_place,
            source_digest=source.hex() if source else None,
            destination_digest=destination.hex() if destination else None,
        )
