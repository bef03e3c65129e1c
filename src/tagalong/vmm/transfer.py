"""The joint to tagalong.migrate: its values into ours, nothing else."""

import threading
from collections.abc import Callable, Mapping

from tagalong import migrate
from tagalong.machine import Machine
from tagalong.migrate import (
    Address,
    FdAddress,
    MigrationOptions,
    Progress,
    TcpAddress,
    UnixAddress,
    parse_address,
)
from tagalong.vmm.incoming import Build, TakeOver
from tagalong.vmm.record import MigrationProgress, MigrationRequest

_MS_PER_S = 1000.0


def send(
    machine: Machine,
    request: MigrationRequest,
    progress: Callable[[MigrationProgress], None],
    cancelled: threading.Event,
) -> Mapping[str, object]:
    """Migrate `machine` away as an outgoing.Sender does."""
    options = MigrationOptions(
        max_downtime_s=request.max_downtime_ms / _MS_PER_S,
        verify=request.verify,
        drop_tags=request.drop_tags,
    )
    report = migrate.migrate_to(
        request.uri,
        machine,
        options,
        progress=lambda moment: progress(_progress(moment)),
        cancel=cancelled,
    )
    return report.to_json()


def _progress(moment: Progress) -> MigrationProgress:
    expected_s = moment.expected_downtime_s
    return MigrationProgress(
        total_bytes=moment.ram_bytes,
        transferred_bytes=moment.bytes_sent,
        remaining_bytes=moment.bytes_remaining,
        rounds=moment.round_number,
        bytes_per_s=moment.throughput_bytes_per_s or 0.0,
        expected_downtime_ms=expected_s * _MS_PER_S if expected_s is not None else None,
    )


class StreamReceiver:
    """Listens for a migration; an incoming.Receiver. `uri` names the real port."""

    def __init__(self, listener: migrate.Listener) -> None:
        self.uri = str(listener.address)
        self.address = socket_address(listener.address)
        self._listener = listener
        self._cancelled = threading.Event()

    def receive(self, build: Build, take_over: TakeOver) -> Mapping[str, object]:
        """As incoming.Receiver."""
        with self._listener:
            arrival = migrate.receive_from(
                self._listener, build, take_over=take_over, cancel=self._cancelled
            )
        return {
            "migration_id": arrival.migration_id,
            "was_running": arrival.was_running,
            "acknowledged": arrival.acknowledged,
            "digest": arrival.digest,
            "pages": arrival.pages,
        }

    def close(self) -> None:
        """As incoming.Receiver."""
        self._cancelled.set()


def listen(uri: str) -> StreamReceiver:
    """Listen at `uri`. Raises UsageError if it is no address, HostError if that fails."""
    return StreamReceiver(migrate.listen(parse_address(uri)))


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
