"""What is said of a snapshot or a dump, while it is written and afterwards."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from tagalong.errors import SnapshotCancelledError
from tagalong.progress import CancelToken, Monitor, ProgressCallback

_MS_PER_S = 1000.0


class SaveStage(Enum):
    """What is being done; the values are the words shown to people."""

    COPY = "copying"
    PRECOPY = "pre-copy"
    LAST_PAGES = "last pages"
    FINISH = "finishing the file"
    COMPRESS = "compressing"


@dataclass(frozen=True)
class SaveProgress:
    """A moment; bytes are bytes of data. `round_number` counts the rounds of a live snapshot."""

    stage: SaveStage = SaveStage.COPY
    round_number: int = 0
    done_bytes: int = 0
    total_bytes: int = 0

    @property
    def step(self) -> object:
        """As progress.Moment."""
        return self.stage, self.round_number


class SaveMonitor(Monitor[SaveProgress]):
    """Counts the bytes of one stage after the other."""

    def __init__(
        self, callback: ProgressCallback[SaveProgress] | None, cancel: CancelToken | None
    ) -> None:
        super().__init__(SaveProgress(), callback, cancel, _cancelled)

    def enter(self, stage: SaveStage, total_bytes: int = 0, *, round_number: int = 0) -> None:
        """Begin a stage. Raises SnapshotCancelledError."""
        self.update(stage=stage, round_number=round_number, done_bytes=0, total_bytes=total_bytes)

    def advance(self, done_bytes: int) -> None:
        """Count bytes that were dealt with. Raises SnapshotCancelledError."""
        self.update(done_bytes=self.moment.done_bytes + done_bytes)

    def compress(self, done_bytes: int, total_bytes: int) -> None:
        """Say how much of the file is compressed. Raises SnapshotCancelledError."""
        if self.moment.stage is not SaveStage.COMPRESS:
            self.enter(SaveStage.COMPRESS, total_bytes)
        self.update(done_bytes=done_bytes)


def _cancelled() -> SnapshotCancelledError:
    return SnapshotCancelledError("cancelled on request: no file was written")


@dataclass(frozen=True)
class SaveReport:
    """A snapshot or a dump that was written.

    `copied_bytes`: data that was looked at, pages that were written twice counted twice.
    `disk_bytes`: what the file takes on disk. `downtime_s`: how long the guest was paused,
    0 if it did not run. `rounds`: of a live snapshot, the stop included. `converged`: its
    last rounds were short enough for the downtime that was allowed. `is_torn`: the guest ran while
    its pages were read, so they are of different moments.
    """

    path: Path
    space: str
    ram_bytes: int
    copied_bytes: int
    size_bytes: int
    disk_bytes: int
    segments: int
    duration_s: float
    downtime_s: float
    was_running: bool
    rounds: int = 1
    converged: bool = True
    compressed: bool = False
    unreadable_tables: int = 0
    not_ram_bytes: int = 0
    is_torn: bool = False

    def to_json(self) -> Mapping[str, object]:
        """Return the report with plain values; times in milliseconds."""
        return {
            "path": str(self.path),
            "space": self.space,
            "ram_bytes": self.ram_bytes,
            "copied_bytes": self.copied_bytes,
            "size_bytes": self.size_bytes,
            "disk_bytes": self.disk_bytes,
            "segments": self.segments,
            "duration_ms": self.duration_s * _MS_PER_S,
            "downtime_ms": self.downtime_s * _MS_PER_S,
            "was_running": self.was_running,
            "rounds": self.rounds,
            "converged": self.converged,
            "compressed": self.compressed,
            "unreadable_tables": self.unreadable_tables,
            "not_ram_bytes": self.not_ram_bytes,
            "torn": self.is_torn,
        }
