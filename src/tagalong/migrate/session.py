"""What the phases of a source share: the machine, the connections, and what was measured."""

import time

from tagalong import wire
from tagalong.machine import Machine
from tagalong.migrate.cancellation import check_cancelled
from tagalong.migrate.convergence import Estimate, Limits
from tagalong.migrate.link import Link
from tagalong.migrate.options import MigrationOptions
from tagalong.migrate.pages.pacer import Pacer
from tagalong.migrate.pages.sender import PageSender, SentData, TagSender
from tagalong.migrate.pages.sender_group import SenderGroup
from tagalong.migrate.report import SendProgress
from tagalong.migrate.steering import Steering
from tagalong.migrate.transport.channel import Channel
from tagalong.progress import CancelToken, Monitor
from tagalong.wire.limits import MAX_BATCH_BYTES


class SourceSession:
    """One migration at its source.

    `link` is the first connection, which carries the conversation; another one takes its place
    after it broke. `socket` is that of the very first. `senders` are all connections that carry
    pages. `sent` is what the destination was sent of each page, `estimate` what was measured so
    far.
    """

    def __init__(
        self,
        channel: Channel,
        machine: Machine,
        options: MigrationOptions,
        monitor: Monitor[SendProgress],
        cancel: CancelToken | None,
        steering: Steering,
    ) -> None:
        self.machine = machine
        self.options = options
        self.monitor = monitor
        self.steering = steering
        self.is_one_way = channel.is_one_way
        self.socket = channel.sock
        self.sent = SentData(machine)
        has_data = machine.description.has_data
        self.estimate = Estimate(machine.description.page_size_bytes, has_data=has_data)
        self.pacer = Pacer(options.max_bandwidth)
        self._cancel = cancel
        self.senders = SenderGroup(
            machine.description.page_size_bytes,
            lambda: self.pacer.portion_bytes(MAX_BATCH_BYTES),
            lambda tick: self.pacer.wait(self.senders.bytes_sent, tick),
            self.check_cancelled,
        )
        connection = wire.Connection(wire.Role.SOURCE, tags_only=not has_data)
        self.link = Link(channel, connection, options.timeouts)
        self.link.interrupt_with(self.check_cancelled)

    def replace_link(self, link: Link) -> None:
        """Continue the conversation over `link`."""
        self.link = link
        link.interrupt_with(self.check_cancelled)

    def add_sender(self, link: Link) -> None:
        """Let `link` carry pages too."""
        kind = PageSender if self.machine.description.has_data else TagSender
        sender = kind(
            self.machine,
            link,
            self.sent,
            drop_tags=self.options.drop_tags,
            compression=self.options.compression,
        )
        self.senders.add(link, sender)

    def limits(self) -> Limits:
        """Return the limits as the operator wants them now."""
        return self.steering.tuned(self.options)

    def check_cancelled(self) -> None:
        """Raise MigrationCancelledError if the operator has cancelled, and as Steering.check."""
        check_cancelled(self._cancel)
        self.steering.check()

    def check(self) -> None:
        """Raise if the operator has cancelled, or the destination has ended the migration."""
        self.check_cancelled()
        self.link.poll_peer()

    def tick(self) -> None:
        """Stay in touch with the operator and the destination during long work. May raise."""
        self.pacer.bytes_per_s = self.steering.tuned(self.options).max_bandwidth
        self.check()
        self.link.keep_alive()


class Stopwatch:
    """Measures periods that follow each other without a gap."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def lap(self) -> float:
        """Return the seconds since the last lap."""
        before, self._last = self._last, time.monotonic()
        return self._last - before
