"""What a migration, a snapshot or a dump cost, as it travels over the control socket.

`to_json` is also what the commands print with --json: keys are stable, new ones may come.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tagalong.machine import AccessChoice
from tagalong.migrate import DowntimeParts, MigrationReport, RoundReport
from tagalong.qapi.access_wish import access_of_report, access_to_report
from tagalong.qapi.json_fields import (
    JsonFields,
    array_of,
    boolean,
    fields,
    integer,
    number,
    object_of,
    text,
)
from tagalong.snapshot import SaveReport

_MS_PER_S = 1000.0


@dataclass(frozen=True)
class VmmReport:
    """What a VMM whose migration we drove says of it; times in milliseconds.

    `downtime_ms` is the guest's whole downtime, `tags_ms` the part of it in which the VMM waited
    for the last tags. `moments_s`: when its steps were, by name, in seconds since 1970.
    """

    status: str
    total_ms: int
    downtime_ms: int
    transferred_bytes: int
    tags_ms: float = 0.0
    moments_s: Mapping[str, float] = field(default_factory=dict)

    @property
    def own_downtime_ms(self) -> float:
        """Return the downtime without what the tags have added."""
        return max(0.0, self.downtime_ms - self.tags_ms)

    def to_json(self) -> dict[str, object]:
        """Return what `json.dumps` takes."""
        return dict(vars(self))

    @classmethod
    def from_json(cls, value: object, what: str) -> "VmmReport":
        """Return what `to_json` made `value` of. Raises ControlError for anything else."""
        members = JsonFields(value, what)
        return cls(
            status=members.read("status", text),
            total_ms=members.read("total_ms", integer),
            downtime_ms=members.read("downtime_ms", integer),
            transferred_bytes=members.read("transferred_bytes", integer),
            tags_ms=members.read_optional("tags_ms", number) or 0.0,
            moments_s=members.read_optional("moments_s", object_of(number)) or {},
        )


@dataclass(frozen=True)
class MigrationResult:
    """A migration that succeeded; `access` is the strategy that was asked for, if one was.

    `vmm`: what the guest's own VMM says, where it moved the rest and we drove it.
    """

    report: MigrationReport
    access: AccessChoice | None = None
    vmm: VmmReport | None = None

    def to_json(self) -> dict[str, object]:
        """Return what `json.dumps` takes."""
        vmm = {} if self.vmm is None else {"vmm": self.vmm.to_json()}
        return {**self.report.to_json(), **access_to_report(self.access), **vmm}

    @classmethod
    def from_json(cls, value: object, what: str) -> "MigrationResult":
        """Return what `to_json` made `value` of. Raises ControlError for anything else."""
        members = JsonFields(value, what)
        vmm = members.read_optional("vmm", VmmReport.from_json)
        return cls(_migration_report(members), access_of_report(members), vmm)


@dataclass(frozen=True)
class SaveResult:
    """A snapshot or a dump that was written; `access` as in MigrationResult."""

    report: SaveReport
    access: AccessChoice | None = None

    def to_json(self) -> dict[str, object]:
        """Return what `json.dumps` takes."""
        return {**self.report.to_json(), **access_to_report(self.access)}

    @classmethod
    def from_json(cls, value: object, what: str) -> "SaveResult":
        """Return what `to_json` made `value` of. Raises ControlError for anything else."""
        members = JsonFields(value, what)
        return cls(_save_report(members), access_of_report(members))


@dataclass(frozen=True)
class ArrivalReport:
    """A VM that arrived, as its destination saw it.

    `acknowledged`: the source was told. If it was not, its operator needs to know that this
    process took over `migration_id`. `digest`: of memory and tags, if they were verified.
    `moments_s`: of a guest beside us, as in VmmReport.
    """

    migration_id: str
    was_running: bool
    acknowledged: bool
    digest: str | None
    pages: int
    moments_s: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, object]:
        """Return what `json.dumps` takes."""
        return {
            "migration_id": self.migration_id,
            "was_running": self.was_running,
            "acknowledged": self.acknowledged,
            "digest": self.digest,
            "pages": self.pages,
            **({"moments_s": dict(self.moments_s)} if self.moments_s else {}),
        }

    @classmethod
    def from_json(cls, value: object, what: str) -> "ArrivalReport":
        """Return what `to_json` made `value` of. Raises ControlError for anything else."""
        members = JsonFields(value, what)
        return cls(
            migration_id=members.read("migration_id", text),
            was_running=members.read("was_running", boolean),
            acknowledged=members.read("acknowledged", boolean),
            digest=members.read_optional("digest", text),
            pages=members.read("pages", integer),
            moments_s=members.read_optional("moments_s", object_of(number)) or {},
        )


def _migration_report(members: JsonFields) -> MigrationReport:
    return MigrationReport(
        migration_id=members.read("migration_id", text),
        ram_bytes=members.read("ram_bytes", integer),
        rounds=tuple(_round(each) for each in members.read("round_details", array_of(fields))),
        downtime=_downtime(members.read("downtime_parts_ms", fields)),
        duration_s=members.read("duration_ms", _seconds),
        bytes_sent=members.read("bytes_sent", integer),
        throughput_bytes_per_s=members.read("throughput_bytes_per_s", number),
        dirty_rate_bytes_per_s=members.read("dirty_rate_bytes_per_s", number),
        was_running=members.read("was_running", boolean),
        tags_dropped=members.read("tags_dropped", boolean),
        throttle_percent=members.read("throttle_percent", integer),
        one_way=members.read("one_way", boolean),
        tags_in_place=members.read_optional("tags_in_place", boolean) or False,
        source_digest=members.read_optional("source_digest", text),
        destination_digest=members.read_optional("destination_digest", text),
    )


def _round(members: JsonFields) -> RoundReport:
    return RoundReport(
        number=members.read("number", integer),
        pages=members.read("pages", integer),
        data_bytes=members.read("data_bytes", integer),
        data_bytes_wire=members.read("data_bytes_wire", integer),
        tag_bytes_raw=members.read("tag_bytes_raw", integer),
        tag_bytes_wire=members.read("tag_bytes_wire", integer),
        duration_s=members.read("duration_ms", _seconds),
        dirty_pages_left=members.read("dirty_pages_left", integer),
    )


def _downtime(members: JsonFields) -> DowntimeParts:
    return DowntimeParts(
        stop_s=members.read("stop", _seconds),
        last_pages_s=members.read("last_pages", _seconds),
        last_tags_s=members.read("last_tags", _seconds),
        state_s=members.read("state", _seconds),
        digest_s=members.read("digest", _seconds),
        commit_s=members.read("commit", _seconds),
        start_s=members.read("start", _seconds),
    )


def _save_report(members: JsonFields) -> SaveReport:
    return SaveReport(
        path=Path(members.read("path", text)),
        space=members.read("space", text),
        ram_bytes=members.read("ram_bytes", integer),
        copied_bytes=members.read("copied_bytes", integer),
        size_bytes=members.read("size_bytes", integer),
        disk_bytes=members.read("disk_bytes", integer),
        segments=members.read("segments", integer),
        duration_s=members.read("duration_ms", _seconds),
        downtime_s=members.read("downtime_ms", _seconds),
        was_running=members.read("was_running", boolean),
        rounds=members.read("rounds", integer),
        converged=members.read("converged", boolean),
        compressed=members.read("compressed", boolean),
        unreadable_tables=members.read("unreadable_tables", integer),
        not_ram_bytes=members.read("not_ram_bytes", integer),
        is_torn=members.read("torn", boolean),
    )


def _seconds(value: object, what: str) -> float:
    return number(value, what) / _MS_PER_S
