"""The results of a comparison, as values and as JSON."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

CONTROL = "(plain)"
"""The name of the control: plain accesses through the mapping with PROT_MTE."""


@dataclass(frozen=True)
class SystemCalls:
    """Results of write(2) from guest memory and read(2) into it: "ok" or the name of an errno."""

    write: str
    read: str


@dataclass(frozen=True)
class Operation:
    """The cost of a copy. GiB are of guest RAM, for tags too."""

    gib_per_s: float
    system_calls_per_gib: float
    ioctls_per_gib: float


@dataclass(frozen=True)
class Looks:
    """Looks at a buffer: its tags, then its data.

    `faults` counts the looks that ended in a tag check fault. `torn`, `stale` and `right` count
    granules of the others (tagalong.access.Outcome defines them).
    """

    looks: int
    faults: int
    torn: int
    stale: int
    right: int


@dataclass(frozen=True)
class RaceResult:
    """Looks while the guest re-tags as fast as it can, and while it is paused."""

    seconds: float
    running: Looks
    paused: Looks


@dataclass(frozen=True)
class StrategyReport:
    """One strategy on one machine.

    `reason`: why it does not work; None if it works, and then the other fields are set. `faults`
    and `wrong`: by checking mode, how many of `attempts` reads and writes faulted, and how many
    read or left wrong bytes. `system_calls`: by checking mode. `operations`: by name, measured
    with synchronous checks. `race`: only if it was asked for.
    """

    name: str
    summary: str
    needs: tuple[str, ...]
    hazards: tuple[str, ...]
    reason: str | None = None
    attempts: int = 0
    faults: Mapping[str, int] | None = None
    wrong: Mapping[str, int] | None = None
    system_calls: Mapping[str, SystemCalls] | None = None
    operations: Mapping[str, Operation] | None = None
    race: RaceResult | None = None

    @property
    def works(self) -> bool:
        """Return whether the host has what it needs."""
        return self.reason is None


@dataclass(frozen=True)
class ComparisonReport:
    """All strategies, the control first. `machine` and `chosen`: names, each with its reason."""

    machine: str
    machine_reason: str
    chosen: str
    chosen_reason: str
    strategies: tuple[StrategyReport, ...]

    @property
    def is_as_promised(self) -> bool:
        """Return whether no strategy faulted or was wrong while the guest was paused."""
        rows = [each for each in self.strategies if each.works and each.name != CONTROL]
        counts = [n for row in rows for by in (row.faults, row.wrong) for n in (by or {}).values()]
        in_pause = [row.race.paused for row in rows if row.race is not None]
        return not any(counts) and not any(p.faults + p.torn + p.stale for p in in_pause)

    def of(self, name: str) -> StrategyReport:
        """Return the report of one strategy."""
        return next(each for each in self.strategies if each.name == name)

    def to_json(self) -> dict[str, object]:
        """Return the report as what `json.dumps` takes."""
        rows = [asdict(each) | {"works": each.works} for each in self.strategies]
        return {
            "machine": self.machine,
            "machine_reason": self.machine_reason,
            "auto": self.chosen,
            "auto_reason": self.chosen_reason,
            "strategies": rows,
        }
