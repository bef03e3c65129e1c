"""What an operator asks of a migration."""

from dataclasses import dataclass, field, fields, replace

from tagalong.errors import UsageError
from tagalong.migrate.convergence import Limits
from tagalong.migrate.pages.compression import Compression
from tagalong.migrate.timeouts import Timeouts
from tagalong.migrate.transport.address import Address, TcpAddress, UnixAddress
from tagalong.migrate.transport.connector import is_one_way
from tagalong.migrate.transport.tls import TlsCredentials
from tagalong.wire.limits import MAX_CHANNELS, MAX_RECONNECT_S


@dataclass(frozen=True)
class MigrationOptions(Limits):
    """What the operator asks for. Raises UsageError for values that make no sense.

    Beside the limits, which may change under way: `channels`: connections to spread pages over,
    None: as many as are right for both ends and the link (`channel_count.py`). `compression`: of
    data. `reconnect_s`: for how long to try to reconnect when a connection breaks in pre-copy.
    `verify`: compare a digest of all memory and tags before the commit. `drop_tags`: send all tags
    as zero on purpose, unverified: the control experiment. `tls`: the source's certificates, and
    which authority it trusts.
    """

    channels: int | None = None
    compression: Compression = field(default_factory=Compression)
    reconnect_s: int = 0
    verify: bool = False
    drop_tags: bool = False
    tls: TlsCredentials | None = None
    timeouts: Timeouts = field(default_factory=Timeouts)

    def __post_init__(self) -> None:
        if not self.max_downtime_s >= 0 or self.max_rounds < 1:
            raise UsageError(
                f"a downtime of {self.max_downtime_s} s after {self.max_rounds} rounds is not "
                "possible: at least 0 s and 1 round"
            )
        if self.channels is not None and not 1 <= self.channels <= MAX_CHANNELS:
            raise UsageError(f"{self.channels} channels are not possible: 1 to {MAX_CHANNELS} are")
        if not 0 <= self.reconnect_s <= MAX_RECONNECT_S:
            raise UsageError(
                f"to reconnect for {self.reconnect_s} s is not possible: 0 to {MAX_RECONNECT_S} s "
                "are"
            )
        for rate in (self.max_bandwidth, self.switchover_bandwidth):
            if rate is not None and not rate > 0:
                raise UsageError(
                    f"a bandwidth of {rate} bytes per second is not possible: more than 0 is"
                )

    def with_limits(self, limits: Limits) -> "MigrationOptions":
        """Return the same options with other limits."""
        return replace(self, **{each.name: getattr(limits, each.name) for each in fields(Limits)})


def require_possible(address: Address, options: MigrationOptions) -> None:
    """Raise UsageError for options that are impossible at that address."""
    if options.verify and is_one_way(address):
        raise UsageError(
            f"{address}: digests cannot be compared (verify), because nothing there answers"
        )
    is_once = not isinstance(address, TcpAddress | UnixAddress)
    if is_once and ((options.channels or 1) > 1 or options.reconnect_s):
        raise UsageError(
            f"{address}: several channels and reconnecting need tcp:HOST:PORT or unix:PATH, "
            "where more than one connection is possible"
        )
