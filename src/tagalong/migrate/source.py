"""The source of a migration: sends a machine away, and keeps it if anything fails.

    set up      the destination accepts the machine, and its state as of now, or refuses both
    copy        rounds of pages while the guest runs, until little enough remains
    stop        the guest stands; its last pages and its state follow
    verify      on request: both ends' digests are compared
    hand over   PREPARE, READY, COMMIT, RUNNING

Up to COMMIT every failure ends with the guest going on here. COMMIT gives up the right to
run: after it only the destination's ABORT brings the guest back, and silence is
HandoverUncertainError (docs/formats/stream.md, section 8, names every moment).
"""

import contextlib
import secrets
import time
from collections.abc import Iterator

from tagalong import wire
from tagalong.errors import (
    DigestMismatchError,
    HandoverUncertainError,
    HostError,
    MigrationError,
    MigrationStage,
    RemoteProtocolError,
    RunStateError,
    TagalongError,
)
from tagalong.machine import Freezer, Machine, MachineFreezer, MachinePages
from tagalong.machine_records import record_of_description, record_of_state
from tagalong.memory import PageBitmap
from tagalong.migrate.cancellation import cancelled, check_cancelled
from tagalong.migrate.convergence import Limits
from tagalong.migrate.link import Link
from tagalong.migrate.options import MigrationOptions, require_possible
from tagalong.migrate.pages.digest import memory_digest
from tagalong.migrate.pages.pacer import Pacer
from tagalong.migrate.pages.sender import PageSender, SentData
from tagalong.migrate.pages.sender_group import SenderGroup
from tagalong.migrate.precopy import PreCopy
from tagalong.migrate.reconnection import Connect, FurtherConnections, Resumption
from tagalong.migrate.report import DowntimeParts, MigrationReport, SendProgress
from tagalong.migrate.steering import Steering
from tagalong.migrate.transport.address import TcpAddress, UnixAddress, parse_address
from tagalong.migrate.transport.channel import Channel
from tagalong.migrate.transport.connector import connect
from tagalong.progress import CancelToken, Monitor, ProgressCallback
from tagalong.wire.codec import MIGRATION_ID_BYTES
from tagalong.wire.limits import MAX_BATCH_BYTES

_RECONNECT_EVERY_S = 0.2


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
    the guest's stop. Raises UsageError for a URI that is none, MigrationError if nobody listens
    there, and all that `migrate` raises.

    >>> migrate_to("tcp:127.0.0.1:4444", machine)  # doctest: +SKIP
    """
    options = options or MigrationOptions()
    address = parse_address(uri)
    steering = steering or Steering()

    def connect_again() -> Channel:
        channel = connect(
            steering.address or address,
            timeout_s=options.timeouts.connect_s,
            idle_s=options.timeouts.idle_s,
            interrupt=lambda: check_cancelled(cancel),
            tls=options.tls,
        )
        return steering.register(channel)

    monitor = _new_monitor(machine, progress, cancel)
    require_possible(address, options)
    with _errors_name_their_stage(monitor):
        try:
            channel = connect_again()
        except HostError as error:
            raise MigrationError(f"the migration did not begin: {error}") from error
        again = connect_again if isinstance(address, TcpAddress | UnixAddress) else None
        with channel:
            return _Source(channel, machine, options, monitor, cancel).run(again, steering)


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
    ask for. `progress` is called in this thread. Afterwards the machine here is paused and must not
    be resumed: the destination has it. Whether it runs there depends on whether it ran
    here when it was stopped for its last pages.

    Raises MigrationError or one of its subclasses, with the cause chained. The machine is
    then as it was, and runs if it ran before. The one exception is HandoverUncertainError:
    the machine is paused, and stays so until a person has looked at the destination.
    """
    monitor = _new_monitor(machine, progress, cancel)
    with channel, _errors_name_their_stage(monitor):
        source = _Source(channel, machine, options or MigrationOptions(), monitor, cancel)
        return source.run(connect_again, Steering())


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
    """One migration."""

    def __init__(
        self,
        channel: Channel,
        machine: Machine,
        options: MigrationOptions,
        monitor: Monitor[SendProgress],
        cancel: CancelToken | None,
    ) -> None:
        self._machine = machine
        self._freezer: Freezer = MachineFreezer(machine)
        self._options = options
        self._cancel = cancel
        self._is_one_way = channel.is_one_way
        self._link = Link(channel, wire.Connection(wire.Role.SOURCE), options.timeouts)
        self._monitor = monitor
        self._sent = SentData(machine)
        pacer = self._pacer = Pacer(options.max_bandwidth)
        self._senders = SenderGroup(
            machine.description.page_size_bytes,
            lambda: pacer.portion_bytes(MAX_BATCH_BYTES),
            lambda tick: pacer.wait(self._senders.bytes_sent, tick),
            lambda: check_cancelled(cancel),
        )
        self._precopy = PreCopy(
            machine, self._senders, self._sent, self._monitor, self._work, pacer
        )
        self._granted = wire.Hello(wire.Role.DESTINATION, b"")
        self._further: FurtherConnections | None = None
        self._id = secrets.token_bytes(MIGRATION_ID_BYTES)
        self._has_tags = machine.description.mte_version != 0
        self._ran = False
        self._has_committed = False
        self._digests: tuple[bytes, bytes] | None = None
        self._began = time.monotonic()

    def run(self, connect_again: Connect | None, steering: Steering) -> MigrationReport:
        self._steering = steering
        self._freezer = steering.freezer or self._freezer
        try:
            downtime = self._migrate(connect_again)
        except BaseException as error:
            if self._has_committed and not self._link.was_aborted_by_peer:
                raise self._uncertain(error) from error
            self._fall_back(error)
            if isinstance(error, MigrationError):
                raise
            if isinstance(error, TagalongError | OSError | MemoryError):
                raise self._failure(error) from error
            raise
        finally:
            steering.set_pausable(False)
            self._leave_machine_as_it_was()
            self._senders.close()
        return self._report(downtime)

    def _leave_machine_as_it_was(self) -> None:
        # Failing in that must neither lose a VM nor a success.
        with contextlib.suppress(TagalongError):
            self._machine.throttle(0)
        with contextlib.suppress(TagalongError):
            self._machine.stop_dirty_log()

    def _migrate(self, connect_again: Connect | None) -> DowntimeParts:
        self._link.cancel_with(self._cancel)
        self._set_up(connect_again)
        self._steering.set_pausable(bool(self._granted.reconnect_s))
        left = self._precopy.run(self._limits, self._recover)
        self._steering.set_pausable(False)
        return self._stop_and_hand_over(left)

    def _limits(self) -> Limits:
        options = self._steering.tuned(self._options)
        return Limits(
            options.max_downtime_s,
            options.max_rounds,
            options.auto_converge,
            options.switchover_bandwidth,
        )

    def _heed(self) -> None:
        """Heed whoever wants to end this: the caller, or the destination."""
        check_cancelled(self._cancel)
        self._link.poll_peer()

    def _set_up(self, connect_again: Connect | None) -> None:
        self._monitor.update(stage=MigrationStage.SETUP)
        check_cancelled(self._cancel)
        watch, fixed = _Stopwatch(), self._precopy.estimate.fixed
        options = self._options
        hello = wire.Hello(
            wire.Role.SOURCE,
            self._id,
            channels=options.channels if connect_again else 1,
            reconnect_s=options.reconnect_s if connect_again else 0,
        )
        self._link.send(hello)
        self._granted = self._link.expect(wire.Hello)
        fixed.note_answer(watch.lap())
        self._link.send(record_of_description(self._machine.description))
        # What the destination cannot take it refuses now, while the guest runs.
        watch.lap()
        self._link.send(record_of_state(self._machine.peek_state()))
        fixed.state_s = watch.lap()
        self._link.expect(wire.Accept)
        if connect_again is not None:
            features, timeouts = self._link.features, options.timeouts
            self._further = FurtherConnections(
                connect_again, self._machine, hello, features, timeouts
            )
        self._assemble(rounds=0)

    def _assemble(self, rounds: int) -> None:
        """Let the first connection and all channels that were granted carry pages."""
        self._enlist(self._link)
        for number in range(1, self._granted.channels):
            assert self._further is not None  # noqa: S101 (else one connection was asked for)
            self._enlist(self._further.open_channel(number, rounds))

    def _enlist(self, link: Link) -> None:
        drop_tags, compression = self._options.drop_tags, self._options.compression
        sender = PageSender(
            self._machine, link, self._sent, drop_tags=drop_tags, compression=compression
        )
        self._senders.add(link, sender)

    def _recover(self, error: Exception, rounds: int) -> list[PageBitmap] | None:
        """Come back after a broken connection, as precopy.Recover."""
        if self._further is None or not self._granted.reconnect_s or not self._senders.is_lost:
            raise error
        self._monitor.update(stage=MigrationStage.RECONNECT)
        self._senders.close()
        resumption = self._resume(self._further, error, rounds)
        self._link = resumption.link
        self._link.cancel_with(self._cancel)
        self._assemble(resumption.rounds)
        return resumption.held if resumption.rounds == rounds else None

    def _resume(self, further: FurtherConnections, error: Exception, rounds: int) -> Resumption:
        deadline = time.monotonic() + self._granted.reconnect_s
        while True:
            check_cancelled(self._cancel)
            try:
                if self._steering.is_paused:
                    raise HostError("the migration is paused")
                return further.resume(rounds)
            except (HostError, RemoteProtocolError) as again:
                if time.monotonic() > deadline:
                    raise HostError(
                        f"the connection broke ({error}) and did not come back in "
                        f"{self._granted.reconnect_s} s ({again})"
                    ) from error
            time.sleep(_RECONNECT_EVERY_S)

    def _stop_and_hand_over(self, left: list[PageBitmap]) -> DowntimeParts:
        watch = _Stopwatch()
        self._stop()
        last = self._precopy.collect_last(left)
        stop_s = watch.lap()
        tags_s = self._precopy.send_last(last)
        pages_s = watch.lap()
        self._send_state()
        state_s = watch.lap()
        if self._options.verify and not self._options.drop_tags:
            self._verify()
        digest_s = watch.lap()
        self._prepare()
        commit_s = watch.lap()
        self._hand_over()
        last_tags_s = min(tags_s, pages_s)  # several channels read side by side
        return DowntimeParts(
            stop_s, pages_s - last_tags_s, last_tags_s, state_s, digest_s, commit_s, watch.lap()
        )

    def _stop(self) -> None:
        try:
            self._ran = self._freezer.freeze()
        except RunStateError as error:
            raise MigrationError(f"the migration failed: {error}") from error

    def _send_state(self) -> None:
        self._monitor.update(stage=MigrationStage.STATE)
        self._link.send(record_of_state(self._machine.save_state()))

    def _verify(self) -> None:
        self._monitor.update(stage=MigrationStage.DIGEST)
        self._link.send(wire.Verify())
        ours = memory_digest(MachinePages(self._machine), self._work, has_tags=self._has_tags)
        self._link.send(wire.Digest(ours))
        theirs = self._link.expect(wire.Digest).digest
        self._digests = (ours, theirs)
        if theirs != ours:
            raise DigestMismatchError(
                f"the destination holds other memory or tags: its digest is {theirs.hex()}, the "
                f"source's {ours.hex()}; nothing was started there"
            )

    def _work(self) -> None:
        """Stay in touch during long work, with the operator too."""
        self._pacer.bytes_per_s = self._steering.tuned(self._options).max_bandwidth
        self._heed()
        self._link.keep_alive()

    def _prepare(self) -> None:
        self._monitor.update(stage=MigrationStage.COMMIT)
        self._link.send(wire.Prepare())
        self._link.expect(wire.Ready)
        self._heed()

    def _hand_over(self) -> None:
        # From here on nobody can cancel, and no callback of the caller is called.
        self._link.cancel_with(None)
        self._commit()
        self._link.expect(wire.Running)
        self._senders.end_channels()

    def _commit(self) -> None:
        self._has_committed = True
        self._monitor.note(stage=MigrationStage.COMMITTED)
        try:
            self._link.send(wire.Commit(run=self._ran))
        except TagalongError:
            # The channel has not taken COMMIT's last byte, so nobody has a whole COMMIT.
            self._has_committed = False
            self._monitor.note(stage=MigrationStage.COMMIT)
            raise

    def _fall_back(self, error: BaseException) -> None:
        """Let the guest go on here, then tell the destination."""
        self._leave_machine_as_it_was()
        try:
            self._freezer.thaw()
        except TagalongError as problem:
            error.add_note(f"and the guest could not be resumed: {problem}")
        self._link.abort(error)

    def _failure(self, error: BaseException) -> MigrationError:
        stage = self._monitor.moment.stage.value
        return MigrationError(f"the migration failed ({stage}), the VM stays here: {error}")

    def _uncertain(self, error: BaseException) -> HandoverUncertainError:
        name = self._id.hex()
        return HandoverUncertainError(
            f"migration {name}: the right to run was given to the destination, and then it was "
            f"not heard of any more ({error}). The VM stays stopped here. Look at the "
            f"destination: if it took over migration {name}, end the VM here; if it did not, "
            "and only then, reclaim it here (x-reclaim)"
        )

    def _report(self, downtime: DowntimeParts) -> MigrationReport:
        rounds = tuple(self._precopy.rounds)
        copying_s = sum(each.duration_s for each in rounds)
        source, destination = self._digests or (None, None)
        return MigrationReport(
            migration_id=self._id.hex(),
            ram_bytes=self._machine.description.ram_bytes,
            rounds=rounds,
            downtime=downtime,
            duration_s=time.monotonic() - self._began,
            bytes_sent=self._senders.bytes_sent,
            throughput_bytes_per_s=self._senders.bytes_sent / max(copying_s, 1e-6),
            dirty_rate_bytes_per_s=self._precopy.estimate.dirty_rate or 0.0,
            was_running=self._ran,
            tags_dropped=self._options.drop_tags,
            throttle_percent=self._monitor.moment.throttle_percent,
            one_way=self._is_one_way,
            source_digest=source.hex() if source else None,
            destination_digest=destination.hex() if destination else None,
        )


class _Stopwatch:
    """Measures what follows each other without a gap."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def lap(self) -> float:
        """Return the seconds since the lap before."""
        before, self._last = self._last, time.monotonic()
        return self._last - before
