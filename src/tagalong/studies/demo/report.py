"""The report of a demo: numbers, and whether it succeeded."""

from dataclasses import dataclass

from tagalong.migrate import MigrationReport

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
    """The guest's last report at one side, summed over all vCPUs.

    `operations` are steps of its workload, `faults` tag check faults that it provoked and
    took. Both count from the guest's start.
    """

    operations: int
    faults: int


@dataclass(frozen=True)
class DemoReport:
    """A whole demo.

    `migration`: the source's report. `failures`: the guest's own FAIL lines. `tagged_granules`:
    granules whose tag is not 0, counted at the source after the guest left.
    """

    tags_dropped: bool
    migration: MigrationReport
    granules: int
    tagged_granules: int
    before: GuestProgress
    after: GuestProgress
    failures: tuple[str, ...]

    @property
    def succeeded(self) -> bool:
        """Return whether the guest ran on unharmed and the digests of both sides were equal."""
        ran_on = self.after.operations > self.before.operations
        return ran_on and not self.failures and self.migration.verified

    def to_json(self) -> dict[str, object]:
        """Return the report as what `json.dumps` takes. Keys are stable; new ones may come."""
        migration = self.migration.to_json()
        return {
            **{name: migration[name] for name in _COPIED},
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
            "migration": migration,
        }
