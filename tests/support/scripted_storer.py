"""What saves a VM in tests: it does no more than the run states, and ends as told to."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from tagalong.errors import SnapshotCancelledError
from tagalong.machine import Freezer, Machine
from tagalong.qapi.reports import SaveResult
from tagalong.qapi.saving import SaveRequest
from tagalong.snapshot import SaveProgress, SaveStage
from tests.support.results import save_result


@dataclass
class ScriptedStorer:
    """Stops the machine, waits for `finish`, and ends with `report`, or with `error`.

    `stopped` is set once the guest is paused; `requests` are those that were asked for.
    """

    error: Exception | None = None
    report: SaveResult = field(default_factory=save_result)
    finish: threading.Event = field(default_factory=threading.Event)
    stopped: threading.Event = field(default_factory=threading.Event)
    requests: list[SaveRequest] = field(default_factory=list)

    def store(
        self,
        _machine: Machine,
        request: SaveRequest,
        progress: Callable[[SaveProgress], None],
        cancelled: threading.Event,
        freezer: Freezer,
    ) -> SaveResult:
        """Save the machine, or be cancelled before `finish`; it stays stopped if that fails."""
        self.requests.append(request)
        freezer.freeze()
        progress(SaveProgress(SaveStage.COPY, 1, 400, 1000))
        self.stopped.set()
        while not self.finish.wait(0.001):
            if cancelled.is_set():
                raise SnapshotCancelledError("cancelled on request")
        if self.error is not None:
            raise self.error
        freezer.thaw()
        progress(SaveProgress(SaveStage.FINISH))
        return self.report
