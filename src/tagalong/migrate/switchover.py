"""Switch-over: the guest stops here, its last pages and its state follow, and the VM changes hands.

Three promises carry the hand-over (docs/formats/stream.md, section 8):

- READY: the destination holds every page, tag, register and device, and could run them.
- COMMIT: the source does not run the VM again unless the destination returns it with ABORT.
- ABORT of the destination: it has not started the VM and never will.

The source has committed when the transport has taken the last byte of COMMIT: before that, the
destination cannot have a whole COMMIT. So a failed send leaves the VM here, and a connection that
breaks after a complete one leaves it with the destination or with no one: the source must not
guess. It keeps the VM paused and reports HandoverUncertainError. From the commit on a cancellation
has no effect and no callback runs: an exception of a caller could only cost the knowledge of which
end has the VM.

From the stop to READY the guest waits for the destination, so that time is bounded: by
`Timeouts.switchover_s` and the downtime that the operator allows, and with verification by five
times what the source's digest takes. Then the guest runs here again. An operator can cancel at
every moment before COMMIT.

What only one process may hold, the locks of disk images, changes hands around COMMIT. The source
brings all data to its disks and gives the locks up right before it, with READY in hand; the
destination takes them right after it, before the guest runs. In between neither side runs the VM.
If the source cannot bring its data to the disks, it keeps the VM; if the destination cannot take a
lock, it sends ABORT, and the source takes its own back; if that fails, too, because a third process
was faster, the VM stays here and paused, and runs when it is told to once the image is free.

Where post-copy belongs
-----------------------
Post-copy moves the guest before all of its pages: the destination runs and requests the pages that
its guest misses. That is a fourth phase behind this one. It takes what this phase returns and the
pages that are left, and it ends when the destination holds all of them:

    SetUp -> PreCopy -> SwitchOver -> PostCopy

COMMIT keeps its meaning. In COMMITTED the source has nothing to say, because an ABORT of its own
could not be honoured: it has given up the right to run. Post-copy adds a state behind RUNNING
instead of an exception to that rule. If both HELLOs offer the feature, RUNNING leads to it and not
to DONE (docs/formats/stream.md, section 8c, reserves the feature bit and the record types):

    before PREPARE  the source names the pages that it still has, in the form of HELD
    behind RUNNING  the destination requests pages: the guest waits for these first
                    the source sends each page once, with data and tags; KEPT is not allowed
                    END in both directions, once the destination holds every page

Neither end can send ABORT there: the source has an old state and the destination lacks pages, so
the VM can only go forward. A connection that breaks there is resumed as in pre-copy, with HELD for
what was placed, and without a limit on the time. Until END the source keeps its RAM, and a failure
is a class of its own: the VM is at the destination, and without the source's RAM it is lost. What
is known here as `has_committed` stays true from COMMIT on, whatever follows. A digest cannot be
compared, because the guest runs before its memory is whole.
"""

import time
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Final

from tagalong import wire
from tagalong.errors import (
    DigestMismatchError,
    MigrationError,
    MigrationStage,
    RunStateError,
    TagalongError,
)
from tagalong.machine import Freezer, MachineFreezer, MachinePages
from tagalong.machine_records import record_of_state
from tagalong.memory import PageBitmap
from tagalong.migrate.pages.digest import memory_digest
from tagalong.migrate.precopy import PreCopy
from tagalong.migrate.report import DowntimeParts
from tagalong.migrate.session import SourceSession, Stopwatch

# How many times as long as the source's own digest the destination's may take.
_SLOWER_DIGEST: Final = 4
_TICK_S: Final = 0.5


@dataclass(frozen=True)
class SwitchedOver:
    """A VM that the destination has: `ran` until it was stopped here.

    `digests` are the source's and the destination's, None without verification.
    """

    ran: bool
    downtime: DowntimeParts
    digests: tuple[bytes, bytes] | None


class SwitchOver:
    """The last phase. `has_committed`: the right to run has left, and did not come back."""

    def __init__(self, session: SourceSession, precopy: PreCopy) -> None:
        self.has_committed = False
        self._session = session
        self._precopy = precopy
        machine = session.machine
        self._freezer: Freezer = session.steering.freezer or MachineFreezer(machine)
        self._ran = False

    def run(self, left: list[PageBitmap]) -> SwitchedOver:
        """Stop the guest, send the pages that are `left` and its state, and hand it over.

        Raises MigrationError if the guest ended, DigestMismatchError, and as `Link.send` and
        `Link.receive`. `undo` lets the guest run again, unless `has_committed`.
        """
        watch = Stopwatch()
        self._stop()
        self._limit()
        last = self._precopy.collect_last(left)
        stop_s = watch.lap()
        tags_s = self._precopy.send_last(last)
        pages_s = watch.lap()
        self._send_state()
        state_s = watch.lap()
        digests = self._verify() if self._is_verified else None
        digest_s = watch.lap()
        self._prepare()
        self._give_up_disks()
        commit_s = watch.lap()
        self._hand_over()
        last_tags_s = min(tags_s, pages_s)  # several channels read tags at the same time
        downtime = DowntimeParts(
            stop_s, pages_s - last_tags_s, last_tags_s, state_s, digest_s, commit_s, watch.lap()
        )
        return SwitchedOver(self._ran, downtime, digests)

    def undo(self) -> None:
        """Let the guest run again if it ran.

        Raises MachineError if it cannot, HostError if its disks are held by another process; it
        stays paused then.
        """
        self._session.machine.activate()
        self._freezer.thaw()

    @property
    def _is_verified(self) -> bool:
        options = self._session.options
        is_asked_for = options.verify or self._session.machine.description.tags_in_place
        return is_asked_for and not options.drop_tags

    def _stop(self) -> None:
        try:
            self._ran = self._freezer.freeze()
        except RunStateError as error:
            raise MigrationError(f"the migration failed: {error}") from error

    def _limit(self) -> None:
        """Bound how long the destination can keep the guest paused."""
        session = self._session
        if session.is_one_way:
            return  # the peer is this process, and how long a disk takes is not known
        seconds = session.options.timeouts.switchover_s + session.limits().max_downtime_s
        session.senders.set_deadline(time.monotonic() + seconds)

    def _send_state(self) -> None:
        session = self._session
        session.monitor.update(stage=MigrationStage.STATE)
        # The next record follows at once: one wake-up of the destination for both.
        session.link.send(record_of_state(session.machine.save_state()), has_more=True)

    def _verify(self) -> tuple[bytes, bytes]:
        session, link = self._session, self._session.link
        session.monitor.update(stage=MigrationStage.DIGEST)
        link.send(wire.Verify())
        has_tags = session.machine.description.mte_version != 0
        began, deadline = time.monotonic(), link.deadline
        link.deadline = float("inf")  # what the source itself takes is not the destination's time
        ours = memory_digest(MachinePages(session.machine), session.tick, has_tags=has_tags)
        # The destination has to do the same work, and may be slower.
        link.deadline = deadline + (time.monotonic() - began) * (1 + _SLOWER_DIGEST)
        link.send(wire.Digest(ours))
        theirs = link.expect(wire.Digest).digest
        if theirs != ours:
            raise DigestMismatchError(
                f"the destination holds other memory or tags: its digest is {theirs.hex()}, the "
                f"source's {ours.hex()}; nothing was started there"
            )
        return ours, theirs

    def _prepare(self) -> None:
        session = self._session
        session.monitor.update(stage=MigrationStage.COMMIT)
        session.link.send(wire.Prepare())
        session.steering.confirm_last()
        if session.steering.commits_ahead:
            session.check_cancelled()  # the link is not polled: READY may be there, and is awaited
            return
        session.link.expect(wire.Ready)
        session.check()

    def _give_up_disks(self) -> None:
        """Bring all data to the disks and unlock them, in touch with the destination meanwhile."""
        if not self._session.machine.description.has_disks:
            self._session.machine.inactivate()  # at once: a thread would only cost downtime
            return
        with ThreadPoolExecutor(1, "inactivate") as executor:
            given_up = executor.submit(self._session.machine.inactivate)
            while not wait((given_up,), _TICK_S).done:
                self._session.tick()
            given_up.result()

    def _hand_over(self) -> None:
        session = self._session
        session.link.cancel_with(None)
        if not session.is_one_way:
            session.link.deadline = time.monotonic() + session.options.timeouts.switchover_s
        self._commit()
        if session.steering.commits_ahead:
            # The hand-over that counts is still to come: until then all can be given up.
            session.link.interrupt_with(session.check_cancelled)
            session.link.expect(wire.Ready)
        session.link.expect(wire.Running)
        session.steering.handed_over()
        session.senders.end_channels(session.options.timeouts.farewell_s)

    def _commit(self) -> None:
        monitor = self._session.monitor
        self.has_committed = True
        monitor.note(stage=MigrationStage.COMMITTED)
        try:
            self._session.link.send(wire.Commit(run=self._ran))
        except TagalongError:
            self.has_committed = False
            monitor.note(stage=MigrationStage.COMMIT)
            raise
