"""A snapshot or a dump on the control socket: what is asked for, and how far it is.

Names and meaning are QEMU's (qapi/dump.json, DumpQueryResult); what QEMU does not have is
prefixed `x-`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

from tagalong.core import Space
from tagalong.errors import CoreError
from tagalong.qapi.access_wish import access_to_argument
from tagalong.qapi.failure import Failure
from tagalong.qapi.json_fields import JsonFields, integer, one_of, text
from tagalong.qapi.reports import SaveResult
from tagalong.snapshot import SaveOptions

_WHAT = "query-dump"
_MS_PER_S = 1000.0

SPACES: Final = {space.name.lower(): space for space in Space}
"""What the addresses of a dump can be, by the words of `x-space`; the first is the default."""


class SaveStatus(Enum):
    """How far a snapshot or a dump is; the values are QMP's DumpStatus."""

    NONE = "none"
    ACTIVE = "active"
    COMPLETED = "completed"
    FAILED = "failed"

    @property
    def is_final(self) -> bool:
        """Tell whether nothing more will happen."""
        return self in (SaveStatus.COMPLETED, SaveStatus.FAILED)


class SaveKind(Enum):
    """What is written: both are cores, but only a snapshot is made to be restored."""

    SNAPSHOT = "snapshot"
    DUMP = "dump"


_STATUSES = {status.value: status for status in SaveStatus}
_KINDS = {kind.value: kind for kind in SaveKind}


def is_compressed_name(path: Path) -> bool:
    """Return whether a file of this name has to be compressed: NAME.zst, as `zstd` names them."""
    return path.suffix == ".zst"


@dataclass(frozen=True)
class SaveRequest:
    """What the operator asks for.

    `access` names the strategy by which the VM's process accesses guest RAM from then on; None
    leaves the present one. Raises UsageError, with SaveOptions' words, from `options`.
    """

    path: Path
    kind: SaveKind = SaveKind.SNAPSHOT
    space: Space = Space.PHYSICAL
    vcpu: int = 0
    live: bool = False
    compress: bool = False
    max_downtime_ms: int = 0
    access: str | None = None

    def options(self) -> SaveOptions:
        """Return what it asks of tagalong.snapshot. Raises UsageError if that is impossible."""
        return SaveOptions(
            space=self.space,
            vcpu=self.vcpu,
            live=self.live,
            compress=self.compress,
            max_downtime_s=self.max_downtime_ms / _MS_PER_S,
        )

    @property
    def command(self) -> str:
        """Return the QMP command that asks for it."""
        return "dump-guest-memory" if self.kind is SaveKind.DUMP else "x-snapshot"

    def to_arguments(self) -> Mapping[str, object]:
        """Return the arguments of that command, which is answered at once."""
        common = {
            "protocol": f"file:{self.path}",
            "detach": True,
            **access_to_argument(self.access),
        }
        if self.kind is SaveKind.SNAPSHOT:
            return {**common, "live": self.live, "zstd": self.compress}
        return {
            **common,
            "paging": self.space is not Space.PHYSICAL,
            "x-space": self.space.name.lower(),
            "x-vcpu": self.vcpu,
            **({"x-live": True} if self.live else {}),
        }


@dataclass(frozen=True)
class SaveInfo:
    """QMP's DumpQueryResult: what is known of the last snapshot or dump.

    `completed_bytes` and `total_bytes` are of guest memory; at the end they are equal and say what
    was copied. `stage` and `round_number` are there while it is active, `report` once it
    completed, `failure` once it failed or was cancelled.
    """

    status: SaveStatus = SaveStatus.NONE
    completed_bytes: int = 0
    total_bytes: int = 0
    kind: SaveKind | None = None
    path: Path | None = None
    stage: str | None = None
    round_number: int | None = None
    report: SaveResult | None = None
    failure: Failure | None = None

    def result(self) -> dict[str, object]:
        """Return the members that are QEMU's, as in the event DUMP_COMPLETED."""
        return {
            "status": self.status.value,
            "completed": self.completed_bytes,
            "total": self.total_bytes,
        }

    def to_qmp(self) -> dict[str, object]:
        """Return what query-dump answers."""
        optional: dict[str, object | None] = {
            "x-kind": self.kind.value if self.kind else None,
            "x-path": str(self.path) if self.path else None,
            "x-stage": self.stage,
            "x-round": self.round_number,
            "x-report": self.report.to_json() if self.report else None,
        }
        present = {name: value for name, value in optional.items() if value is not None}
        failed = self.failure.to_qmp() if self.failure else {}
        return {**self.result(), **present, **failed}

    def to_event(self) -> dict[str, object]:
        """Return the data of DUMP_COMPLETED."""
        data: dict[str, object] = {"result": self.result(), "x-info": self.to_qmp()}
        if self.failure is not None:
            data["error"] = self.failure.text
        return data

    @classmethod
    def from_qmp(cls, value: object) -> "SaveInfo":
        """Return what query-dump said. Raises ControlError if it makes no sense."""
        members = JsonFields(value, _WHAT)
        path = members.read_optional("x-path", text)
        return cls(
            status=members.read("status", one_of(_STATUSES)),
            completed_bytes=members.read("completed", integer),
            total_bytes=members.read("total", integer),
            kind=members.read_optional("x-kind", one_of(_KINDS)),
            path=Path(path) if path is not None else None,
            stage=members.read_optional("x-stage", text),
            round_number=members.read_optional("x-round", integer),
            report=members.read_optional("x-report", SaveResult.from_json),
            failure=Failure.from_qmp(members, CoreError),
        )

    def outcome(self) -> SaveResult:
        """Return the report of a snapshot or a dump that has ended.

        Raises RemoteError with the VM's reason if it failed.
        """
        if self.status is SaveStatus.COMPLETED and self.report is not None:
            return self.report
        raise (self.failure or _NO_REASON).to_error()


_NO_REASON = Failure("the VM did not say why saving it failed", "CoreError", 70)
