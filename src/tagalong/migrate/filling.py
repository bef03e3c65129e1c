"""Fills a destination's machine: everything from ACCEPT to PREPARE, over any connections.

A connection that breaks while pages are copied does not end the migration if both ends agreed to
wait for each other: the destination drops all connections, waits for the source, and tells it
which pages of the round under way it has placed (docs/formats/stream.md, section 8a).
"""

import time
from dataclasses import dataclass
from typing import Final

from tagalong import wire
from tagalong.errors import DigestMismatchError, HostError, RemoteProtocolError
from tagalong.machine import Machine, MachinePages
from tagalong.machine_records import state_of_record
from tagalong.migrate.cancellation import check_cancelled
from tagalong.migrate.joining import Joins, ReturnedError
from tagalong.migrate.link import Link
from tagalong.migrate.pages.digest import memory_digest
from tagalong.migrate.pages.placed import records_of_held
from tagalong.migrate.pages.receiver import PageInventory, PageReceiver
from tagalong.migrate.timeouts import Timeouts
from tagalong.progress import CancelToken

_LOOK_UP_S: Final = 0.1


@dataclass(frozen=True)
class FillPlan:
    """What the machine is filled from and by what rules.

    `joins`: None where there is one connection and no way back. `reconnect_s`: how long to wait
    for a source whose connection broke.
    """

    machine: Machine
    inventory: PageInventory
    has_tags: bool
    joins: Joins | None
    reconnect_s: int
    timeouts: Timeouts
    cancel: CancelToken | None


class Filling:
    """Fills one machine. `link` carries the conversation: another one after it broke.

    `digest`: of all memory and tags, once the source asked for it.
    """

    def __init__(self, plan: FillPlan, link: Link, receiver: PageReceiver) -> None:
        self.link = link
        self.digest: bytes | None = None
        self._plan = plan
        self._receiver = receiver
        self._resumed_with: tuple[int, int] | None = None
        self._return_by = 0.0
        self._has_returned = False

    @property
    def pages(self) -> int:
        """Return how many pages were received."""
        return self._plan.inventory.pages

    def check(self) -> None:
        """Raise if the migration was cancelled, a channel failed, or the source came back."""
        check_cancelled(self._plan.cancel)
        if self._plan.joins is not None:
            self._plan.joins.check()

    def run(self) -> None:
        """Receive everything up to PREPARE.

        Raises what `Link.receive` raises, DigestMismatchError, and StateError for a state that the
        machine cannot take.
        """
        while True:
            try:
                self._receive_until_prepare()
            except (HostError, RemoteProtocolError) as error:
                if not self._may_resume(error):
                    raise
                self._resume(error)
            else:
                return

    def _receive_until_prepare(self) -> None:
        receiver = self._receiver
        while not isinstance(record := self.link.receive(), wire.Prepare):
            self.check()
            match record:
                case wire.Pages():
                    receiver.take(record)
                case wire.Round():
                    self.link.send(wire.Round(record.number, receiver.end_round()))
                case wire.StateRecord():
                    self._load_state(record)
                case wire.Verify():
                    self._compute_digest()
                case wire.Digest():
                    self._compare(record.digest)

    def _compute_digest(self) -> None:
        began = time.monotonic()
        self.digest = memory_digest(
            MachinePages(self._plan.machine), self._stay_in_touch, has_tags=self._plan.has_tags
        )
        self.link.deadline += time.monotonic() - began  # our own time, not the source's

    def _load_state(self, record: wire.StateRecord) -> None:
        # The guest is paused now: from here to COMMIT the source has this long in total.
        self.link.deadline = self.link.answer_deadline()
        self._await_channels()
        self._receiver.clear_stale()
        self._plan.machine.load_state(state_of_record(record))

    def _await_channels(self) -> None:
        """Wait until the channels have carried all they were given, and accept no more."""
        joins = self._plan.joins
        if joins is None:
            return
        while not self._plan.inventory.wait_for_others(_LOOK_UP_S):
            self._stay_in_touch()
            self.check()
            if time.monotonic() > self.link.deadline:
                raise HostError("the channels do not deliver what was sent over them")
        joins.acceptor.stop()
        self.link.cancel_with(self._plan.cancel)

    def _stay_in_touch(self) -> None:
        """Look at the cancel token and let the peer hear from us, during long work."""
        check_cancelled(self._plan.cancel)
        self.link.keep_alive()

    def _compare(self, theirs: bytes) -> None:
        ours = self.digest or b""
        self.link.send(wire.Digest(ours))
        if ours != theirs:
            raise DigestMismatchError(
                f"the source holds other memory or tags: its digest is {theirs.hex()}, the "
                f"destination's {ours.hex()}; nothing was started here"
            )

    # --- a connection that breaks ---

    def _may_resume(self, error: Exception) -> bool:
        joins = self._plan.joins
        is_lost = self.link.is_lost or isinstance(error, ReturnedError)
        is_lost = is_lost or (joins is not None and joins.channels.is_lost)
        is_copying = self.link.phase in (wire.Phase.COPYING, wire.Phase.ROUND_ENDED)
        return bool(self._plan.reconnect_s) and is_lost and is_copying

    def _resume(self, error: Exception) -> None:
        """Wait for the source and tell it what was placed. Raises if it does not come in time."""
        while True:
            self._drop_connections()
            self._accept_return(error)
            try:
                return self._tell_what_was_placed()
            except (HostError, RemoteProtocolError) as again:
                if not self.link.is_lost and not isinstance(again, ReturnedError):
                    raise
                error = again

    def _drop_connections(self) -> None:
        assert self._plan.joins is not None  # noqa: S101 (granted)
        self.link.close()
        self._plan.joins.channels.drop()
        self._plan.inventory.interrupt_round()

    def _accept_return(self, error: Exception) -> None:
        assert self._plan.joins is not None  # noqa: S101 (granted)
        rejoined = self._plan.joins.returned.wait(
            self._return_deadline(), lambda: check_cancelled(self._plan.cancel)
        )
        if rejoined is None:
            raise HostError(
                f"the connection broke ({error}), and the source did not come back in "
                f"{self._plan.reconnect_s} s{' with anything new' if self._has_returned else ''}"
            ) from error
        self._has_returned = True
        self.link, self._receiver = rejoined.link, rejoined.receiver
        self.link.interrupt_with(self.check)

    def _return_deadline(self) -> float:
        """Return by when the source must be back; a return that brought nothing extends nothing.

        Else a source that comes back and breaks off, again and again, would make a destination
        wait for ever.
        """
        progress = (self._plan.inventory.rounds, self._plan.inventory.pages)
        if progress != self._resumed_with:
            self._resumed_with = progress
            self._return_by = time.monotonic() + self._plan.reconnect_s
            self._has_returned = False
        return self._return_by

    def _tell_what_was_placed(self) -> None:
        inventory = self._plan.inventory
        self.link.deadline = time.monotonic() + self._plan.reconnect_s
        self.link.expect(wire.Resume)
        for held in records_of_held(self._plan.machine.memory.regions, inventory.placed):
            self.link.send(held)
        self.link.send(wire.Resumed(inventory.rounds))
        self.link.deadline = float("inf")
