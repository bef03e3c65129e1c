"""What is asked for and known of a snapshot or a dump, and its form in QMP.

Names and meaning are QEMU's (qapi/dump.json, DumpQueryResult); what QEMU does not have is
prefixed `x-`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from tagalong.errors import TagalongError
from tagalong.vmm.causes import with_causes


class SaveStatus(Enum):
    """How far a snapshot or a dump is; the values are QMP's DumpStatus."""

    ACTIVE = "active"
    COMPLETED = "completed"
    FAILED = "failed"


class SaveKind(Enum):
    """What is written: both are cores, but only a snapshot is made to be restored."""

    SNAPSHOT = "snapshot"
    DUMP = "dump"


@dataclass(frozen=True)
class SaveRequest:
    """What the operator asks for; `space` is "physical", "kernel" or "user".

    `access` names the strategy by which the VM's process touches guest RAM from then on; None
    leaves it as it is.
    """

    path: Path
    kind: SaveKind = SaveKind.SNAPSHOT
    space: str = "physical"
    vcpu: int = 0
    live: bool = False
    compress: bool = False
    max_downtime_ms: int = 0
    access: str | None = None


@dataclass(frozen=True)
class SaveMoment:
    """How far it is: bytes of guest RAM."""

    completed_bytes: int = 0
    total_bytes: int = 0
    stage: str = ""
    round_number: int = 0


@dataclass
class SaveRecord:
    """One snapshot or dump from its request to its end; `report` once it completed."""

    request: SaveRequest
    status: SaveStatus = SaveStatus.ACTIVE
    moment: SaveMoment = SaveMoment()
    report: Mapping[str, object] | None = None
    error: TagalongError | None = None

    def result(self) -> dict[str, object]:
        """Return QMP's DumpQueryResult."""
        return {
            "status": self.status.value,
            "completed": self.moment.completed_bytes,
            "total": self.moment.total_bytes,
        }

    def to_qmp(self) -> dict[str, object]:
        """Return what query-dump answers."""
        answer = self.result()
        answer["x-kind"] = self.request.kind.value
        answer["x-path"] = str(self.request.path)
        if self.status is SaveStatus.ACTIVE:
            answer["x-stage"] = self.moment.stage
            answer["x-round"] = self.moment.round_number
        if self.report is not None:
            answer["x-report"] = dict(self.report)
        if self.error is not None:
            answer["error-desc"] = with_causes(self.error)
            answer["x-error-class"] = type(self.error).__name__
        return answer

    def to_event(self) -> dict[str, object]:
        """Return the data of DUMP_COMPLETED."""
        data: dict[str, object] = {"result": self.result()}
        if self.error is not None:
            data["error"] = with_causes(self.error)
        return data


NOTHING_SAVED: Mapping[str, object] = {"status": "none", "completed": 0, "total": 0}
"""What query-dump answers before the first one."""
