"""The source's connections: which one sends which batch, and the ROUND that ends a round on all.

The first connection carries the conversation and pages; the others, the channels, carry pages only,
each in a thread of its own. Batches are dealt out one by one, so that a slow channel gets fewer.

There are few batches and they are large: between two of them Python works with caches that hold
guest RAM, which makes what it does several times dearer. The last batches of a round get smaller,
so that all connections end together.

A round ends on all connections before any page may be sent again. That barrier is the only order
between connections: an older copy of a page can never be placed over a newer one, and no record
needs a number that spans connections.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

from tagalong import wire
from tagalong._native import library
from tagalong.errors import HostError, TagalongError
from tagalong.memory import PageBitmap
from tagalong.migrate.channel_count import take_all_cpus
from tagalong.migrate.link import Link
from tagalong.migrate.pages.sender import Pages, PageSender, Tally, batches
from tagalong.migrate.transport.channel import Interrupt, never
from tagalong.wire.limits import MAX_BATCH_BYTES

_LOOK_UP_S = 0.02

# How long a batch should take, and its size before that is known. No way within a host is slow.
_BATCH_S = 0.1
_FIRST_BYTES = 4 << 20
_FIRST_LOCAL_BYTES = 16 << 20
_LEAST_BYTES = 1 << 20

ReportTally = Callable[[Tally], None]
Pace = Callable[[Callable[[], None]], None]


class StoppedError(TagalongError):
    """Another connection of the same migration has failed; nothing is wrong with this one."""


class SenderGroup:
    """The links of one migration with a sender each, the first link first.

    A batch has the size that a connection needs a tenth of a second for, at most `most_bytes()` of
    data: large ones cost less, small ones let a slow link respond. `pace` is called after each
    batch of a live round, in any thread, with what it has to call while it waits. `interrupt` ends
    waits for answers by raising.
    """

    def __init__(
        self,
        page_bytes: int,
        most_bytes: Callable[[], int],
        pace: Pace,
        interrupt: Interrupt = never,
    ) -> None:
        self._page_bytes = page_bytes
        self._most_bytes = most_bytes
        self._first_pages = self._batch_pages = _FIRST_BYTES // page_bytes
        self._pace = pace
        self._interrupt = interrupt
        self._members: list[_Member] = []
        self._bytes_before = 0

    def add(self, link: Link, sender: PageSender) -> None:
        """Add a connection."""
        if link.shares_host:
            self._first_pages = _FIRST_LOCAL_BYTES // self._page_bytes
            self._batch_pages = max(self._batch_pages, self._first_pages)
        self._members.append(_Member(link, sender))

    @property
    def bytes_sent(self) -> int:
        """Return how many bytes all connections have sent so far."""
        return self._bytes_before + sum(member.link.bytes_sent for member in self._members)

    @property
    def is_resumable(self) -> bool:
        """Return whether a connection broke, and no peer sent what it must not."""
        links = [member.link for member in self._members]
        return any(link.is_lost for link in links) and not any(link.is_violated for link in links)

    def set_deadline(self, deadline: float) -> None:
        """Set the deadline of all connections."""
        for member in self._members:
            member.link.deadline = deadline

    def close(self) -> None:
        """Close all connections; new ones may be added then."""
        self._bytes_before = self.bytes_sent
        for member in self._members:
            member.link.close()
        self._members.clear()

    def send(
        self, pages: Sequence[PageBitmap], tally: Tally, report: ReportTally, *, is_live: bool
    ) -> None:
        """Send the pages of each region over all connections; add what was sent to `tally`.

        `report` is called in this thread before each batch and while other threads still send, with
        what was sent so far; it may raise. Raises what `PageSender.send` raises.
        """
        work = _BatchQueue(pages, self._most_of, self._batch_pages)
        tallies = [Tally() for _ in self._members]
        helpers = [
            threading.Thread(
                target=self._help, args=(work, member, part, is_live), name="channel", daemon=True
            )
            for member, part in zip(self._members[1:], tallies[1:], strict=True)
        ]
        # For what one connection sends in one batch, threads would only cost time.
        waiting, helpers = helpers if work.is_large else [], []
        try:
            for helper in waiting:
                helper.start()
                helpers.append(helper)
            self._start_apart(self._members[0])
            self._lead(work, tallies, report, is_live=is_live)
            while any(helper.is_alive() for helper in helpers):
                helpers[-1].join(_LOOK_UP_S)
                helpers = [helper for helper in helpers if helper.is_alive()]
                report(_sum(tallies))
        finally:
            work.stop()
            for helper in helpers:
                helper.join()
            for member, part in zip(self._members, tallies, strict=True):
                member.pages += part.pages
                member.link.interrupt_with(self._interrupt)
            tally.add_later(_sum(tallies))
        work.raise_failure(self._members[0].link)

    def _most_of(self, left: int) -> int:
        """Return how many pages the next batch should have, with so many left for all."""
        # The last ones are smaller, so that no connection works for long while others idle.
        share = max(left // len(self._members), self._first_pages)
        return min(self._batch_pages, share, self._most_bytes() // self._page_bytes)

    def _lead(
        self, work: "_BatchQueue", tallies: list[Tally], report: ReportTally, *, is_live: bool
    ) -> None:
        def wait() -> None:
            report(_sum(tallies))

        for region, numbers in work:
            wait()
            self._send(self._members[0], region, numbers, tallies[0])
            if is_live:
                self._pace(wait)

    def _help(self, work: "_BatchQueue", member: "_Member", tally: Tally, is_live: bool) -> None:
        member.link.interrupt_with(work.check)
        self._start_apart(member)
        try:
            for region, numbers in work:
                self._send(member, region, numbers, tally)
                if is_live:
                    self._pace(work.check)
            member.link.flush()
        except Exception as error:  # noqa: BLE001 (raised again in the leader's thread)
            work.fail(error)

    def _start_apart(self, member: "_Member") -> None:
        """Let the calling thread begin on a processor of its own, if all of them have work.

        Both ends are on this host then, and the receivers come after their senders.
        """
        if take_all_cpus(len(self._members)) and member.link.shares_host:
            library().ta_start_apart(self._members.index(member))

    def _send(self, member: "_Member", region: int, numbers: Pages, tally: Tally) -> None:
        began = time.monotonic()
        member.sender.send(region, numbers, tally)
        if numbers.size == self._batch_pages:
            pages = int(numbers.size * _BATCH_S / max(time.monotonic() - began, 1e-6))
            # In steps: a single batch may have met an empty buffer, or a busy host.
            pages = max(numbers.size // 2, min(pages, numbers.size * 2))
            least = _LEAST_BYTES // self._page_bytes
            self._batch_pages = min(max(least, pages), MAX_BATCH_BYTES // self._page_bytes)

    def end_round(self, number: int) -> None:
        """Send ROUND on all connections, and wait for all answers, in the time of one.

        Raises as `Link.send` and `Link.receive`.
        """
        for member in self._members:
            member.send_round(number)
        deadline = self._members[0].link.answer_deadline()
        for member in self._members:
            member.link.expect(wire.Round, deadline)

    def end_last_round(self, number: int) -> None:
        """Send ROUND behind the last pages on the channels: on the first connection STATE does."""
        for member in self._members[1:]:
            member.send_round(number)

    def end_channels(self, within_s: float) -> None:
        """Send END on the channels and close them, in a thread of its own.

        The VM has moved: nothing depends on these last words, so nothing waits for them.
        """
        channels, self._members = self._members[1:], self._members[:1]
        links = [channel.link for channel in channels]
        self._bytes_before += sum(link.bytes_sent for link in links)
        deadline = time.monotonic() + within_s
        if links:
            threading.Thread(
                target=_end_all, args=(links, deadline), name="channels-end", daemon=True
            ).start()


def _end_all(links: Sequence[Link], deadline: float) -> None:
    for link in links:
        link.cancel_with(None)
        link.deadline = deadline
        with suppress(TagalongError):
            link.expect(wire.Round)
            link.send(wire.EndRecord())
        link.close()


class _Member:
    def __init__(self, link: Link, sender: PageSender) -> None:
        self.link = link
        self.sender = sender
        self.pages = 0

    def send_round(self, number: int) -> None:
        pages, self.pages = self.pages, 0
        self.link.send(wire.Round(number, pages))


class _BatchQueue:
    """Batches to send, dealt out to threads; it ends for all when one of them fails or stops.

    `most_of` returns how many pages a batch should have, with so many left.
    """

    def __init__(
        self, pages: Sequence[PageBitmap], most_of: Callable[[int], int], few_pages: int
    ) -> None:
        self._left = sum(bitmap.count() for bitmap in pages)
        self.is_large = self._left > few_pages
        self._batches = _all_batches(pages, lambda: most_of(self._left))
        self._lock = threading.Lock()
        self._is_over = False
        self._failure: Exception | None = None

    def __iter__(self) -> Iterator[tuple[int, Pages]]:
        while (batch := self._next()) is not None:
            yield batch

    def _next(self) -> tuple[int, Pages] | None:
        with self._lock:
            batch = None if self._is_over else next(self._batches, None)
            self._left -= 0 if batch is None else batch[1].size
            return batch

    def stop(self) -> None:
        """Deal out nothing more, and end the waits of all threads."""
        self._is_over = True

    def check(self) -> None:
        """Raise if the work was stopped."""
        if self._is_over:
            raise StoppedError("another connection of the migration has failed")

    def fail(self, error: Exception) -> None:
        """Stop, because of this error; the first one counts."""
        with self._lock:
            if self._failure is None and not isinstance(error, StoppedError):
                self._failure = error
            self._is_over = True

    def raise_failure(self, first: Link) -> None:
        """Raise what has failed, if anything; an ABORT on `first` explains it best."""
        if self._failure is None:
            return
        with suppress(HostError):
            first.raise_abort()
        raise self._failure


def _all_batches(
    pages: Sequence[PageBitmap], most: Callable[[], int]
) -> Iterator[tuple[int, Pages]]:
    for region, bitmap in enumerate(pages):
        for numbers in batches(bitmap, most):
            yield region, numbers


def _sum(tallies: Sequence[Tally]) -> Tally:
    total = Tally()
    for tally in tallies:
        total.add(tally)
    return total
