"""The joint to tagalong.migrate, which knows neither QMP nor run states."""

import threading
from collections.abc import Callable, Sequence
from contextlib import closing

from tagalong import migrate
from tagalong.errors import HostError, UsageError
from tagalong.machine import Machine
from tagalong.migrate import (
    Address,
    FdAddress,
    SendProgress,
    SocketListener,
    Steering,
    TcpAddress,
    TlsCredentials,
    UnixAddress,
    parse_address,
)
from tagalong.qapi.migration import MigrationRequest, SocketAddress
from tagalong.qapi.reports import ArrivalReport, MigrationResult
from tagalong.vmm.incoming import Build, TakeOver


def send(
    machine: Machine,
    request: MigrationRequest,
    progress: Callable[[SendProgress], None],
    cancelled: threading.Event,
    steering: Steering,
) -> MigrationResult:
    """Migrate `machine` away as an outgoing.Sender does."""
    choice = None if request.access is None else machine.use_access(request.access)
    report = migrate.migrate_to(
        request.uri,
        machine,
        request.options(),
        progress=progress,
        cancel=cancelled,
        steering=steering,
    )
    return MigrationResult(report, choice)


class StreamReceiver:
    """Listens for a migration; an incoming.VmReceiver. `uri` names the real port."""

    def __init__(self, listener: migrate.Listener, reserve_bytes: Sequence[int] = ()) -> None:
        self.uri = str(listener.address)
        self.address = socket_address(listener.address)
        self._listener = listener
        self._reserve_bytes = reserve_bytes
        self._end = migrate.EndOrder()

    def receive(self, build: Build, take_over: TakeOver) -> ArrivalReport:
        """As incoming.VmReceiver."""
        with self._listener, closing(migrate.Preparation(self._reserve_bytes)) as preparation:
            arrival = migrate.receive_from(
                self._listener,
                preparation.before(build),
                take_over=take_over,
                cancel=self._end,
            )
        return ArrivalReport(
            migration_id=arrival.migration_id,
            was_running=arrival.was_running,
            acknowledged=arrival.acknowledged,
            digest=arrival.digest,
            pages=arrival.pages,
        )

    def move_to(self, uri: str) -> None:
        """As incoming.VmReceiver."""
        address = parse_address(uri)
        if not isinstance(self._listener, SocketListener) or not isinstance(
            address, TcpAddress | UnixAddress
        ):
            raise UsageError(
                f"{uri}: only a destination at tcp:HOST:PORT or unix:PATH can move, to another "
                "such address"
            )
        self._listener.move_to(address)
        self.uri, self.address = str(self._listener.address), socket_address(self._listener.address)

    def close(self) -> bool:
        """As incoming.VmReceiver."""
        return self._end.set()


def listen(
    uri: str,
    *,
    tls: TlsCredentials | None = None,
    refused: Callable[[HostError], None] = lambda _: None,
    reserve_bytes: Sequence[int] = (),
) -> StreamReceiver:
    """Listen at `uri`, with TLS if there are credentials.

    `refused` gets the reason for each rejected peer. `reserve_bytes`: sizes of planes to make
    ready meanwhile. Raises UsageError if `uri` is no address, HostError if listening fails.
    """
    return StreamReceiver(
        migrate.listen(parse_address(uri), tls=tls, refused=refused), reserve_bytes
    )


def socket_address(address: Address) -> SocketAddress | None:
    """Return an address in the form of QMP's SocketAddress, None where that has none.

    Ports and descriptors are strings there.
    """
    match address:
        case TcpAddress():
            return SocketAddress("inet", {"host": address.host, "port": str(address.port)})
        case UnixAddress():
            return SocketAddress("unix", {"path": str(address.path)})
        case FdAddress():
            return SocketAddress("fd", {"str": address.name})
    return None
