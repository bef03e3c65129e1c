"""The thread that runs the interpreter, and how it is stopped between two instructions.

A thread that holds the condition while the runner is stopped owns the interpreter's state. The
runner counts as running before it gives up the condition, and as stopped when it is back between
two instructions with no exit left to handle. Others find the machine paused, or take a hold,
which stops the runner for that moment. So a harvest of the dirty log never falls between a store
and its mark.
"""

import threading
from collections.abc import Callable
from typing import Final, Protocol

from tagalong._native import InterpreterExit
from tagalong.machine.holds import VcpuHolds
from tagalong.soft.native import StopReason

_BUDGET: Final = 1 << 40  # instructions; run() is ended by interrupt(), not by its budget


class Interpreter(Protocol):
    """What runs; a NativeMachine is one."""

    def run(self, budget: int, leave: InterpreterExit) -> None:
        """Run until `leave` says why it stopped."""
        ...

    def interrupt(self) -> None:
        """Make the running run(), or else the next, return soon; it says INTERRUPTED then."""
        ...


class SoftRunner:
    """Runs `interpreter`; implements machine.lifecycle.VcpuRunner.

    `condition` guards everything here. `handle` is called for each exit and `fail` with an
    error that ended the thread, both in the thread. `wakeup` is set by a thread that changes
    something that an idle guest may wait for, such as a line: without the condition, which a
    device's thread must not ask for while it has locks of its own.
    """

    def __init__(
        self,
        condition: threading.Condition,
        interpreter: Interpreter,
        handle: Callable[[InterpreterExit], None],
        fail: Callable[[Exception], None],
        wakeup: threading.Event,
    ) -> None:
        self._condition = condition
        self._interpreter = interpreter
        self._handle = handle
        self._fail = fail
        self._wakeup = wakeup
        self._is_started = False
        self._is_stopped = True
        self._closed = False
        self.holds = VcpuHolds(condition, self.wait_stopped)
        self._thread: threading.Thread | None = None

    @property
    def is_stopped(self) -> bool:
        """Return whether the thread is between two instructions, with no exit to handle."""
        return self._is_stopped

    def start(self) -> None:
        """Let the interpreter run."""
        self._is_started = True
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="vcpus", daemon=True)
            self._thread.start()
        self._condition.notify_all()

    def stop(self) -> None:
        """Make the interpreter stop soon."""
        self._is_started = False
        self._interrupt()

    def wait_stopped(self) -> None:
        """Make the interpreter stop and return when it has. In its own thread, do nothing."""
        if threading.current_thread() is self._thread:
            return
        self._interrupt()
        self._condition.wait_for(lambda: self._is_stopped)

    def idle(self, timeout_s: float | None) -> None:
        """Wait for something that the guest may wait for, or until it must stop.

        At most `timeout_s`; None: for ever. The thread's own.
        """
        with self._condition:
            may_wait = self._may_run() and not self._closed
        if may_wait:
            self._wakeup.wait(timeout_s)
        # What was changed before it was set is seen by the next run(), also if that was just now.
        self._wakeup.clear()

    def thread_of(self, vcpu: int) -> int | None:
        """Return the host's id of the one thread, None before the first start."""
        del vcpu
        return self._thread.native_id if self._thread is not None else None

    def close(self) -> None:
        """Stop for ever and end the thread. Safe to call twice, and from the thread itself."""
        with self._condition:
            self._closed = True
            self.wait_stopped()
            self._condition.notify_all()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        leave = InterpreterExit()
        try:
            while self._take_turn():
                leave.reason = 0
                # A thread that stops the runner interrupts it: no other exit needs to ask.
                while leave.reason != StopReason.INTERRUPTED:
                    self._interpreter.run(_BUDGET, leave)
                    self._handle(leave)
        except Exception as error:  # noqa: BLE001 - or a dead thread would pass for a running guest
            with self._condition:
                self._is_stopped = True
                self._condition.notify_all()
            self._fail(error)

    def _interrupt(self) -> None:
        if not self._is_stopped:
            self._interpreter.interrupt()
            self._wakeup.set()
        self._condition.notify_all()

    def _take_turn(self) -> bool:
        """Wait until the interpreter may run; False when it never will again."""
        with self._condition:
            self._is_stopped = True
            self._condition.notify_all()
            self._condition.wait_for(self._may_run)
            self._is_stopped = self._closed
            return not self._closed

    def _may_run(self) -> bool:
        return self._closed or (self._is_started and not self.holds.is_held)
