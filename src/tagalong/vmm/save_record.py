"""The books of one snapshot or dump; only the event loop's thread writes them."""

from dataclasses import dataclass, field, replace

from tagalong.errors import TagalongError
from tagalong.qapi.failure import Failure
from tagalong.qapi.reports import SaveResult
from tagalong.qapi.saving import SaveInfo, SaveRequest, SaveStatus
from tagalong.snapshot import SaveProgress


@dataclass
class SaveRecord:
    """One snapshot or dump from its request to its end; `report` once it completed."""

    request: SaveRequest
    status: SaveStatus = SaveStatus.ACTIVE
    progress: SaveProgress = field(default_factory=SaveProgress)
    report: SaveResult | None = None
    error: TagalongError | None = None

    def advance(self, progress: SaveProgress) -> None:
        """Note how far it is.

        The last stages count no bytes; what was counted before them stays.
        """
        if progress.total_bytes == 0:
            done, total = self.progress.done_bytes, self.progress.total_bytes
            progress = replace(progress, done_bytes=done, total_bytes=total)
        self.progress = progress

    def info(self) -> SaveInfo:
        """Return what query-dump says of it now."""
        is_active = self.status is SaveStatus.ACTIVE
        completed, total = self._bytes()
        return SaveInfo(
            status=self.status,
            completed_bytes=completed,
            total_bytes=total,
            kind=self.request.kind,
            path=self.request.path,
            stage=self.progress.stage.value if is_active else None,
            round_number=self.progress.round_number if is_active else None,
            report=self.report,
            failure=Failure.of(self.error) if self.error is not None else None,
        )

    def _bytes(self) -> tuple[int, int]:
        """Return how much is done and how much there is; in the end, what was really copied."""
        if self.report is not None:
            return self.report.report.copied_bytes, self.report.report.copied_bytes
        return self.progress.done_bytes, self.progress.total_bytes
