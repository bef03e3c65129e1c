"""Slows a guest down: its vCPUs run for a while and are stopped for a while, by turns.

Both machines use it. QEMU lets vCPU threads sleep (softmmu/cpu-throttle.c); here a thread holds
the vCPUs between two instructions, so that a pause, a harvest or a saved state that comes in
such a slice finds them stopped already.
"""

import threading
from typing import Final

from tagalong.errors import UsageError
from tagalong.machine.holds import VcpuHolds
from tagalong.machine.state import MAX_THROTTLE_PERCENT

# QEMU's CPU_THROTTLE_TIMESLICE_NS.
_SLICE_S: Final = 0.010


class Throttle:
    """Stops the vCPUs of a machine for a part of the time, by `holds`.

    `condition` guards the machine.
    """

    def __init__(self, condition: threading.Condition, holds: VcpuHolds) -> None:
        self._condition = condition
        self._holds = holds
        self._percent = 0
        self._thread: threading.Thread | None = None

    def set(self, percent: int) -> None:
        """Stop the vCPUs for `percent` of the time from now on.

        Raises UsageError if that is not 0 to 99.
        """
        if not 0 <= percent <= MAX_THROTTLE_PERCENT:
            raise UsageError(
                f"cannot throttle by {percent} %: give 0 to {MAX_THROTTLE_PERCENT} percent"
            )
        with self._condition:
            self._percent = percent
            if percent and self._thread is None:
                self._thread = threading.Thread(target=self._run, name="throttle", daemon=True)
                self._thread.start()
            self._condition.notify_all()

    def _run(self) -> None:
        with self._condition:
            while self._percent:
                self._condition.wait_for(self._is_over, _SLICE_S)
                self._holds.hold()
                self._condition.wait_for(self._is_over, self._stopped_s())
                self._holds.release()
            self._thread = None

    def _is_over(self) -> bool:
        return not self._percent

    def _stopped_s(self) -> float:
        return _SLICE_S * self._percent / (100 - self._percent)
