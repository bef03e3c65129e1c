"""What an operator can change of a migration under way: its connections and its limits.

QMP's migrate-pause and `migrate` with `resume`: the connections of a pre-copy are broken as a fault
would break them, and none is opened until the operator says so, at the same address or at another.
The destination waits for `reconnect_s`. QMP's migrate-set-parameters: other limits count at once,
as they do in QEMU.
"""

import threading

from tagalong.errors import UsageError
from tagalong.machine import Freezer
from tagalong.migrate.convergence import Limits
from tagalong.migrate.options import MigrationOptions
from tagalong.migrate.transport.address import SocketAddress, TcpAddress, UnixAddress, parse_address
from tagalong.migrate.transport.channel import Channel


class Steering:
    """Shared by the threads of an operator and of a migration; any method from any thread.

    `address` is where to connect instead of where the migration began, None for there. `freezer`
    stops the guest; None: only the migration starts and stops it. A migration that has ended, or
    was cancelled, is closed: no later command can revive it.
    """

    commits_ahead = False
    """Whether COMMIT is sent before READY has come: only with tags that another VMM's hand-over
    waits for, which is the one that counts then (docs/formats/stream.md, section 8d)."""

    def __init__(self, freezer: Freezer | None = None) -> None:
        self.freezer = freezer
        self.address: SocketAddress | None = None
        self._limits: Limits | None = None
        self._lock = threading.Lock()
        self._is_pausable = False
        self._is_paused = False
        self._is_closed = False
        self._channels: list[Channel] = []

    # --- the operator's ---

    def pause(self) -> None:
        """Break all connections, and open none until `resume`.

        Raises UsageError unless the migration copies pages and may reconnect.
        """
        with self._lock:
            if not self._is_pausable:
                raise UsageError(
                    "only a migration that copies pages of a running guest and may reconnect "
                    "(x-reconnect) can be paused"
                )
            self._is_paused = True
            for channel in self._channels:
                channel.break_off()

    def resume(self, uri: str | None = None) -> None:
        """Let the migration reconnect, at `uri` if there is one.

        Raises UsageError unless it is paused, and for a URI that allows no second connection; it
        stays paused then.
        """
        address = parse_address(uri) if uri is not None else None
        if address is not None and not isinstance(address, TcpAddress | UnixAddress):
            raise UsageError(
                f"{address}: a migration can be resumed at tcp:HOST:PORT or unix:PATH only"
            )
        with self._lock:
            if not self._is_paused:
                raise UsageError("no migration is paused: there is nothing to resume")
            self.address = address or self.address
            self._is_paused = False

    def tune(self, limits: Limits) -> None:
        """Let `limits` count from now on."""
        self._limits = limits

    def close(self) -> None:
        """Refuse `pause` and `resume` from now on: the migration has ended, or was cancelled."""
        with self._lock:
            self._is_closed = True
            self._is_pausable = self._is_paused = False

    # --- the migration's ---

    def tuned(self, options: MigrationOptions) -> MigrationOptions:
        """Return `options`, with the limits of the last `tune` if there was one."""
        limits = self._limits  # read once: another thread may change it
        return options if limits is None else options.with_limits(limits)

    @property
    def is_paused(self) -> bool:
        """Return whether to wait for `resume`."""
        return self._is_paused

    def set_pausable(self, possible: bool) -> None:
        """Set whether `pause` is possible from now on; it is not before that."""
        with self._lock:
            self._is_pausable = possible and not self._is_closed

    def begin_switchover(self) -> bool:
        """Refuse `pause` from now on; return False, and change nothing, if that is too late.

        Then the operator has just paused the migration: its connections are broken, and it is not
        over before they were back.
        """
        with self._lock:
            if self._is_paused:
                return False
            self._is_pausable = False
            return True

    def check(self) -> None:
        """Raise to end the migration. Called often, in any of its threads, until COMMIT."""

    def confirm_last(self) -> None:
        """Raise if the last pages are not the last: before COMMIT, while the destination works."""

    def handed_over(self) -> None:
        """Note that the destination has the VM. Raises nothing."""

    def register(self, channel: Channel) -> Channel:
        """Add a connection that `pause` breaks, and return it; broken if that was asked for."""
        with self._lock:
            self._channels = [each for each in self._channels if not each.is_closed]
            self._channels.append(channel)
            if self._is_paused:
                channel.break_off()
        return channel
