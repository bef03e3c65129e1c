"""The joint to tagalong.migrate: its values into ours, nothing else."""

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from tagalong import migrate
from tagalong.errors import HostError, UsageError
from tagalong.machine import Machine
from tagalong.migrate import (
    Address,
    FdAddress,
    MigrationOptions,
    MigrationStage,
    SendProgress,
    SocketListener,
    Steering,
    TcpAddress,
    TlsCredentials,
    UnixAddress,
    parse_address,
)
from tagalong.vmm.access_wish import describe_access
from tagalong.vmm.incoming import Build, TakeOver
from tagalong.vmm.record import MigrationProgress, MigrationRequest
from tagalong.vmm.settings import MigrationSettings

_MS_PER_S = 1000.0


def send(
    machine: Machine,
    request: MigrationRequest,
    progress: Callable[[MigrationProgress], None],
    cancelled: threading.Event,
    steering: Steering,
) -> Mapping[str, object]:
    """Migrate `machine` away as an outgoing.Sender does."""
    choice = None if request.access is None else machine.use_access(request.access)
    options = _options(request)
    report = migrate.migrate_to(
        request.uri,
        machine,
        options,
        progress=lambda moment: progress(_progress(moment)),
        cancel=cancelled,
        steering=steering,
    )
    return {**report.to_json(), **describe_access(choice)}


def _options(request: MigrationRequest) -> MigrationOptions:
    return replace(
        request.settings.options(),
        verify=request.verify,
        drop_tags=request.drop_tags,
        tls=_credentials(request.settings),
    )


def _credentials(settings: MigrationSettings) -> TlsCredentials | None:
    if not settings.tls_creds:
        if settings.tls_hostname:
            raise UsageError("a host name for TLS (tls-hostname) means nothing without tls-creds")
        return None
    return TlsCredentials(Path(settings.tls_creds), settings.tls_hostname or None)


def _progress(moment: SendProgress) -> MigrationProgress:
    expected_s = moment.expected_downtime_s
    return MigrationProgress(
        total_bytes=moment.ram_bytes,
        transferred_bytes=moment.bytes_sent,
        remaining_bytes=moment.bytes_remaining,
        rounds=moment.round_number,
        bytes_per_s=moment.throughput_bytes_per_s or 0.0,
        expected_downtime_ms=expected_s * _MS_PER_S if expected_s is not None else None,
        dirty_bytes_per_s=moment.dirty_rate_bytes_per_s or 0.0,
        throttle_percent=moment.throttle_percent,
        stage=moment.stage.value,
        pages_sent=moment.pages_sent,
        page_size_bytes=moment.page_size_bytes,
        is_reconnecting=moment.stage is MigrationStage.RECONNECT,
    )


class StreamReceiver:
    """Listens for a migration; an incoming.Receiver. `uri` names the real port."""

    def __init__(self, listener: migrate.Listener, reserve_bytes: Sequence[int] = ()) -> None:
        self.uri = str(listener.address)
        self.address = socket_address(listener.address)
        self._listener = listener
        self._reserve_bytes = reserve_bytes
        self._cancelled = threading.Event()

    def receive(self, build: Build, take_over: TakeOver) -> Mapping[str, object]:
        """As incoming.Receiver."""
        with self._listener, closing(migrate.Preparation(self._reserve_bytes)) as preparation:
            arrival = migrate.receive_from(
                self._listener,
                preparation.before(build),
                take_over=take_over,
                cancel=self._cancelled,
            )
        return {
            "migration_id": arrival.migration_id,
            "was_running": arrival.was_running,
            "acknowledged": arrival.acknowledged,
            "digest": arrival.digest,
            "pages": arrival.pages,
        }

    def move_to(self, uri: str) -> None:
        """As incoming.Receiver."""
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

    def close(self) -> None:
        """As incoming.Receiver."""
        self._cancelled.set()


def listen(
    uri: str,
    *,
    tls_folder: Path | None = None,
    admitted: Sequence[str] = (),
    refused: Callable[[HostError], None] = lambda _: None,
    reserve_bytes: Sequence[int] = (),
) -> StreamReceiver:
    """Listen at `uri`; with TLS if there is a folder of certificates.

    `admitted` are the names that a source may have, all if there are none; `refused` hears
    of each that was kept out. `reserve_bytes`: sizes of planes to make ready meanwhile.
    Raises UsageError if `uri` is no address, HostError if listening fails.
    """
    tls = TlsCredentials(tls_folder, admitted=tuple(admitted)) if tls_folder is not None else None
    return StreamReceiver(
        migrate.listen(parse_address(uri), tls=tls, refused=refused), reserve_bytes
    )


def socket_address(address: Address) -> dict[str, object] | None:
    """Return an address in the form of QMP's SocketAddress, None where that has none.

    Ports and descriptors are strings there.
    """
    match address:
        case TcpAddress():
            return {"type": "inet", "host": address.host, "port": str(address.port)}
        case UnixAddress():
            return {"type": "unix", "path": str(address.path)}
        case FdAddress():
            return {"type": "fd", "str": str(address.number)}
    return None
