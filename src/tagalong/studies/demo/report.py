"""What a demo found out: numbers, and whether it went well."""

from collections.abc import Mapping
from dataclasses import dataclass

_COPIED = (
    "verified",
    "rounds",
    "downtime_ms",
    "ram_bytes",
    "data_bytes",
    "tag_bytes_raw",
    "tag_bytes_wire",
)


@dataclass(frozen=True)
class GuestProgress:
    """What the guest had reported, of all vCPUs together, when it left one side.

    `operations` are steps of its workload, `faults` tag check faults that it provoked and
    got; both count from the guest's start.
    """

    operations: int
    faults: int


@dataclass(frozen=True)
class DemoReport:
    """A demo from start to end.

    `migration` is the source's report, `failures` the guest's own FAIL lines. A granule is
    tagged if its tag is not 0; counted at the source when the guest stood.
    """

    tags_dropped: bool
    migration: Mapping[str, object]
    granules: int
    tagged_granules: int
    before: GuestProgress
    after: GuestProgress
    failures: tuple[str, ...]

    @property
    def succeeded(self) -> bool:
        """Return whether the guest went on unharmed and both sides held the same."""
        went_on = self.after.operations > self.before.operations
        return went_on and not self.failures and self.migration["verified"] is True

    def to_json(self) -> dict[str, object]:
        """Return the report as what `json.dumps` takes. Keys are stable; new ones may come."""
        return {
            **{name: self.migration[name] for name in _COPIED},
            "tags_dropped": self.tags_dropped,
            "granules": self.granules,
            "tagged_granules": self.tagged_granules,
            "guest_progress_before": self.before.operations,
            "guest_progress_after": self.after.operations,
            "guest_faults_before": self.before.faults,
            "guest_faults_after": self.after.faults,
            "guest_failures": len(self.failures),
            "guest_failure_lines": list(self.failures),
            "succeeded": self.succeeded,
            "migration": dict(self.migration),
        }
