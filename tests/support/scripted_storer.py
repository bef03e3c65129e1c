"""What saves a VM in tests: it does no more than the run states, and ends as told to."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tagalong.errors import SnapshotCancelledError
from tagalong.machine import Machine, RunState
from tagalong.vmm.save_record import SaveMoment, SaveRequest


@dataclass
class ScriptedStorer:
    """Stops the machine, waits for `finish`, and ends with `report`, or with `error`.

    `stopped` is set once the machine stands; `requests` are those that were asked for.
    """

    error: Exception | None = None
    report: Mapping[str, object] = field(default_factory=lambda: {"downtime_ms": 7.4})
    finish: threading.Event = field(default_factory=threading.Event)
    stopped: threading.Event = field(default_factory=threading.Event)
    requests: list[SaveRequest] = field(default_factory=list)

    def store(
        self,
        machine: Machine,
        request: SaveRequest,
        progress: Callable[[SaveMoment], None],
        cancelled: threading.Event,
    ) -> Mapping[str, object]:
        """Save the machine, or be cancelled before `finish`; it stays stopped if that fails."""
        self.requests.append(request)
        ran = machine.run_state is RunState.RUNNING
        machine.pause()
        progress(SaveMoment(400, 1000, "copying", 1))
        self.stopped.set()
        while not self.finish.wait(0.001):
            if cancelled.is_set():
                raise SnapshotCancelledError("cancelled on request")
        if self.error is not None:
            raise self.error
        if ran:
            machine.resume()
        return self.report
