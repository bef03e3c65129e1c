"""Notices that a machine ended on its own, and says so in the event loop's thread."""

import threading
from collections.abc import Callable
from contextlib import suppress

from tagalong.machine import Machine, RunState
from tagalong.vmm.loop_calls import LoopCalls

_ENDED = {RunState.RESET, RunState.SHUTDOWN, RunState.FAILED}


class MachineWatcher:
    """Calls `on_end` in the event loop when the machine is SHUTDOWN, FAILED, or waits for a reset.

    A machine can only be waited for while it runs, so `watch` is to be called after each resume;
    another call does nothing.
    """

    def __init__(
        self, machine: Machine, on_end: Callable[[RunState], None], loop: LoopCalls
    ) -> None:
        self._machine = machine
        self._on_end = on_end
        self._loop = loop
        self._waiting = False

    def watch(self) -> None:
        """Wait for the machine's end in a thread, unless one waits already."""
        if not self._waiting:
            self._waiting = True
            threading.Thread(target=self._wait, name="machine-watch", daemon=True).start()

    def _wait(self) -> None:
        self._machine.wait()
        with suppress(RuntimeError):  # the loop is closed: the process ends
            self._loop.call_soon(self._woke)

    def _woke(self) -> None:
        self._waiting = False
        state = self._machine.run_state
        if state in _ENDED:
            self._on_end(state)
        elif state is RunState.RUNNING:
            self.watch()
