"""A migration on the control socket: what is asked for, and how far it is.

Names and meaning of the members are QEMU's (qapi/migration.json, MigrationInfo); what QEMU
does not have is prefixed `x-`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Final

from tagalong.errors import (
    CommandError,
    HandoverUncertainError,
    MigrationCancelledError,
    MigrationError,
    UsageError,
)
from tagalong.migrate import (
    DESCRIPTORS,
    FdAddress,
    MigrationOptions,
    SendProgress,
    TlsCredentials,
    parse_address,
    require_possible,
)
from tagalong.qapi.access_wish import access_to_argument
from tagalong.qapi.failure import Failure
from tagalong.qapi.json_fields import (
    JsonFields,
    array_of,
    fields,
    integer,
    number,
    one_of,
    text,
)
from tagalong.qapi.reports import ArrivalReport, MigrationResult
from tagalong.qapi.settings import MigrationSettings

_WHAT = "query-migrate"


class MigrationStatus(Enum):
    """How far a migration is; the values are QMP's.

    QMP's names for a broken connection are about post-copy; ours are for pre-copy.
    """

    NONE = "none"
    SETUP = "setup"
    ACTIVE = "active"
    PAUSED = "x-precopy-paused"
    RECOVER = "x-precopy-recover"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"
    COMPLETED = "completed"
    FAILED = "failed"

    @property
    def is_final(self) -> bool:
        """Tell whether nothing more will happen."""
        return self in _FINAL


REPORTED_AT_ITS_SOURCE: Final = (
    "the VM's migration is one to here, and reported at its source: give the source's control "
    "socket; tagalong status says whether the VM is here"
)

_FINAL = {MigrationStatus.CANCELLED, MigrationStatus.COMPLETED, MigrationStatus.FAILED}
_STATUSES = {status.value: status for status in MigrationStatus}


class Switchover(Enum):
    """What a VMM whose migration we drive does while the last tags travel; the values are QMP's.

    PAUSE: it waits, so a failure costs nothing but the pause. OVERLAP: it hands its guest over.
    """

    PAUSE = "pause"
    OVERLAP = "overlap"


@dataclass(frozen=True)
class MigrationRequest:
    """What the operator asks for, and how it is to be done.

    `verify` compares a digest of all memory and tags before the commit; `drop_tags` sends
    all tags as zero, on purpose, to show what is lost without them. `access` names the
    strategy by which the source accesses guest RAM from then on, None the present one.
    `vmm_uri`: where the VMM of a VM that runs beside tagalong is to migrate to; None: somebody
    else drives it. `standing`: then every migration of the VMM is meant, until one has succeeded.
    Raises UsageError for `verify` and `drop_tags` at once, for `standing` with `vmm_uri`, and for
    OVERLAP without it.
    """

    uri: str
    settings: MigrationSettings = field(default_factory=MigrationSettings)
    verify: bool = False
    drop_tags: bool = False
    access: str | None = None
    vmm_uri: str | None = None
    standing: bool = False
    switchover: Switchover = Switchover.PAUSE

    def __post_init__(self) -> None:
        if self.switchover is Switchover.OVERLAP and self.vmm_uri is None:
            raise UsageError(
                "--switchover overlap is about a VMM's migration that tagalong drives: give "
                "--vmm-uri, too"
            )
        if self.standing and self.vmm_uri is not None:
            raise UsageError(
                "a standing order is for migrations that another tool drives: leave out either "
                "--standing or --vmm-uri"
            )
        if self.verify and self.drop_tags:
            raise UsageError("dropped tags cannot be verified: ask for one or the other")

    def options(self) -> MigrationOptions:
        """Return what it asks of tagalong.migrate. Raises UsageError if that is impossible."""
        return replace(
            self.settings.options(),
            verify=self.verify,
            drop_tags=self.drop_tags,
            tls=_credentials(self.settings),
        )

    def check(self) -> None:
        """Raise UsageError or HostError for what is impossible, before anything moves.

        In the VM's process, which has the descriptors that a URI may name.
        """
        address = parse_address(self.uri)
        require_possible(address, self.options())
        if isinstance(address, FdAddress):
            DESCRIPTORS.mode(address)

    def to_arguments(self) -> Mapping[str, object]:
        """Return the arguments of QMP's migrate; the settings are commands of their own."""
        return {
            "uri": self.uri,
            "x-verify": self.verify,
            "x-drop-tags": self.drop_tags,
            **({} if self.vmm_uri is None else {"x-vmm-uri": self.vmm_uri}),
            **({"x-standing": True} if self.standing else {}),
            **self._switchover_argument(),
            **access_to_argument(self.access),
        }

    def _switchover_argument(self) -> Mapping[str, object]:
        if self.switchover is Switchover.PAUSE:  # which a VM of an earlier release does unasked
            return {}
        return {"x-switchover": self.switchover.value}


def _credentials(settings: MigrationSettings) -> TlsCredentials | None:
    if not settings.tls_creds:
        if settings.tls_hostname:
            raise UsageError("a host name for TLS (tls-hostname) needs tls-creds, too")
        return None
    return TlsCredentials(Path(settings.tls_creds), settings.tls_hostname or None)


# QEMU's schema demands them: what a migration here does not do, or does not count apart.
_NOT_COUNTED: Final = (
    "duplicate",
    "downtime-bytes",
    "multifd-bytes",
    "postcopy-bytes",
    "postcopy-requests",
    "dirty-sync-missed-zero-copy",
)


@dataclass(frozen=True)
class RamInfo:
    """QMP's MigrationStats: how far the guest's RAM is. Rates are of guest RAM."""

    total_bytes: int
    transferred_bytes: int
    remaining_bytes: int
    rounds: int
    dirty_pages_per_s: int
    megabits_per_s: float
    page_size_bytes: int
    pages_per_s: int
    pages_sent: int

    @classmethod
    def of(cls, progress: SendProgress) -> "RamInfo":
        """Return what the control socket says of a moment of a migration."""
        page, rate = progress.page_size_bytes, progress.throughput_bytes_per_s or 0.0
        return cls(
            total_bytes=progress.ram_bytes,
            transferred_bytes=progress.bytes_sent,
            remaining_bytes=progress.bytes_remaining,
            rounds=progress.round_number,
            dirty_pages_per_s=round((progress.dirty_rate_bytes_per_s or 0.0) / page),
            megabits_per_s=round(rate * 8 / 1e6, 3),
            page_size_bytes=page,
            pages_per_s=round(rate / page),
            pages_sent=progress.pages_sent,
        )

    def to_qmp(self) -> dict[str, object]:
        """Return QMP's MigrationStats."""
        return {
            "total": self.total_bytes,
            "transferred": self.transferred_bytes,
            "remaining": self.remaining_bytes,
            "dirty-sync-count": self.rounds,
            "dirty-pages-rate": self.dirty_pages_per_s,
            "mbps": self.megabits_per_s,
            "page-size": self.page_size_bytes,
            "pages-per-second": self.pages_per_s,
            "normal": self.pages_sent,
            "normal-bytes": self.pages_sent * self.page_size_bytes,
            "precopy-bytes": self.transferred_bytes,
            **dict.fromkeys(_NOT_COUNTED, 0),
            "x-pages": self.pages_sent,
        }

    @classmethod
    def from_qmp(cls, value: object, what: str) -> "RamInfo":
        """Return what `to_qmp` made `value` of. Raises ControlError for anything else."""
        members = JsonFields(value, what)
        return cls(
            total_bytes=members.read("total", integer),
            transferred_bytes=members.read("transferred", integer),
            remaining_bytes=members.read("remaining", integer),
            rounds=members.read("dirty-sync-count", integer),
            dirty_pages_per_s=members.read("dirty-pages-rate", integer),
            megabits_per_s=members.read("mbps", number),
            page_size_bytes=members.read("page-size", integer),
            pages_per_s=members.read("pages-per-second", integer),
            pages_sent=members.read("x-pages", integer),
        )


@dataclass(frozen=True)
class SocketAddress:
    """QMP's SocketAddress: the type (inet, unix or fd) and the members of that type."""

    type: str
    members: Mapping[str, str]

    @property
    def uri(self) -> str:
        """Return it as `migrate` takes it."""
        match self.type:
            case "inet":
                host = self.members["host"]
                host = f"[{host}]" if ":" in host else host
                return f"tcp:{host}:{self.members['port']}"
            case "unix":
                return f"unix:{self.members['path']}"
        return f"fd:{self.members['str']}"

    def to_qmp(self) -> dict[str, object]:
        """Return QMP's SocketAddress."""
        return {"type": self.type, **self.members}

    @classmethod
    def from_qmp(cls, value: object, what: str) -> "SocketAddress":
        """Return what `to_qmp` made `value` of. Raises ControlError for anything else."""
        members = JsonFields(value, what)
        kind = members.read("type", one_of({name: name for name in _ADDRESS_MEMBERS}))
        return cls(kind, {name: members.read(name, text) for name in _ADDRESS_MEMBERS[kind]})


# Ports and descriptors are strings there.
_ADDRESS_MEMBERS = {"inet": ("host", "port"), "unix": ("path",), "fd": ("str",)}


@dataclass(frozen=True)
class MigrationInfo:
    """QMP's MigrationInfo: what is known of the last migration; times are in milliseconds.

    `socket_address` is where an incoming migration is awaited. `ram` and `stage` are there once
    there was progress, `report` once it completed, `failure` once it failed or was cancelled.
    """

    status: MigrationStatus = MigrationStatus.NONE
    total_time_ms: int = 0
    setup_time_ms: int | None = None
    socket_address: SocketAddress | None = None
    ram: RamInfo | None = None
    stage: str | None = None
    throttle_percent: int = 0
    expected_downtime_ms: int | None = None
    report: MigrationResult | ArrivalReport | None = None
    failure: Failure | None = None

    @property
    def is_incoming(self) -> bool:
        """Return whether it is a migration to here, as far as the VM says."""
        return self.socket_address is not None or isinstance(self.report, ArrivalReport)

    def to_qmp(self) -> dict[str, object]:
        """Return what query-migrate answers: nothing before the first migration."""
        if self.status is MigrationStatus.NONE:
            return {}
        optional: dict[str, object | None] = {
            "setup-time": self.setup_time_ms,
            "socket-address": [self.socket_address.to_qmp()] if self.socket_address else None,
            "ram": self.ram.to_qmp() if self.ram else None,
            "x-stage": self.stage,
            "cpu-throttle-percentage": self.throttle_percent or None,
            "expected-downtime": self.expected_downtime_ms,
        }
        return {
            "status": self.status.value,
            "total-time": self.total_time_ms,
            **{name: value for name, value in optional.items() if value is not None},
            **self._end_to_qmp(),
        }

    def _end_to_qmp(self) -> Mapping[str, object]:
        match self.report:
            case MigrationResult():
                downtime_ms = round(self.report.report.downtime.total_s * 1000)
                return {"downtime": downtime_ms, "x-report": self.report.to_json()}
            case ArrivalReport():
                return {"downtime": 0, "x-report": self.report.to_json()}
        return {} if self.failure is None else self.failure.to_qmp()

    @classmethod
    def from_qmp(cls, value: object) -> "MigrationInfo":
        """Return what query-migrate said. Raises ControlError if it makes no sense."""
        members = JsonFields(value, _WHAT)
        if members.read_optional("status", text) is None:
            return cls()
        addresses = members.read_optional("socket-address", array_of(SocketAddress.from_qmp)) or ()
        return cls(
            status=members.read("status", one_of(_STATUSES)),
            total_time_ms=members.read_optional("total-time", integer) or 0,
            setup_time_ms=members.read_optional("setup-time", integer),
            socket_address=addresses[0] if addresses else None,
            ram=members.read_optional("ram", RamInfo.from_qmp),
            stage=members.read_optional("x-stage", text),
            throttle_percent=members.read_optional("cpu-throttle-percentage", integer) or 0,
            expected_downtime_ms=members.read_optional("expected-downtime", integer),
            report=members.read_optional("x-report", _report),
            failure=Failure.from_qmp(members, MigrationError),
        )

    def outcome(self) -> MigrationResult:
        """Return the source's report of a migration that has ended.

        Raises RemoteError: with the VM's reason if it failed, as cancelled if it was, and as an
        uncertain hand-over if it completed without the source's report. So it does in a plain
        QEMU, where the destination has the VM all the same. CommandError if it was one to here.
        """
        if isinstance(self.report, ArrivalReport):
            raise CommandError(REPORTED_AT_ITS_SOURCE)
        if self.status is MigrationStatus.COMPLETED and isinstance(self.report, MigrationResult):
            return self.report
        raise (self.failure or _WITHOUT_A_REASON[self.status]).to_error()


def _failure(words: str, kind: type[MigrationError]) -> Failure:
    return Failure(words, kind.__name__, kind.exit_code)


_WITHOUT_A_REASON = {
    MigrationStatus.FAILED: _failure("the VM did not say why the migration failed", MigrationError),
    MigrationStatus.CANCELLED: _failure("the migration was cancelled", MigrationCancelledError),
    MigrationStatus.COMPLETED: _failure(
        "the VM says that the migration has completed, but sent no report of a source, as QEMU "
        "does; see whether the VM is at the destination",
        HandoverUncertainError,
    ),
}


def _report(value: object, what: str) -> MigrationResult | ArrivalReport:
    is_arrival = fields(value, what).read_optional("rounds", integer) is None
    return (ArrivalReport if is_arrival else MigrationResult).from_json(value, what)
