"""The thread that runs the interpreter, and how it is made to stand between two instructions.

The interpreter's state belongs to whoever holds the condition while the runner stands. The
runner goes on, and is no longer standing, before it lets go of the condition; it stands again
when it is back between two instructions with no exit left to handle. To touch the state,
others either find the machine paused or take a hold, which makes the runner stand aside for
that moment: so a harvest of the dirty log can never fall between a store and its mark.
"""

import threading
from collections.abc import Callable
from typing import Final, Protocol

from tagalong._native import InterpreterExit
from tagalong.machine.holds import Holds

_BUDGET: Final = 1 << 40  # instructions; run() is ended by interrupt(), not by its budget
_IDLE_WAIT_S: Final = 0.001


class Interpreter(Protocol):
    """What runs; a NativeMachine is one."""

    def run(self, budget: int, leave: InterpreterExit) -> None:
        """Run until `leave` says why it stopped."""
        ...

    def interrupt(self) -> None:
        """Make the running run(), or else the next, return soon."""
        ...


class Runner:
    """Runs `interpreter` while `is_wanted` and nobody has a hold of `holds`.

    `condition` guards everything here and what `is_wanted` looks at; whoever changes that
    notifies it. `handle` is called for each exit and `fail` with an error that ended the
    thread, both in the thread.
    """

    def __init__(
        self,
        condition: threading.Condition,
        interpreter: Interpreter,
        is_wanted: Callable[[], bool],
        handle: Callable[[InterpreterExit], None],
        fail: Callable[[Exception], None],
    ) -> None:
        self._condition = condition
        self._interpreter = interpreter
        self._is_wanted = is_wanted
        self._handle = handle
        self._fail = fail
        self._stands = True
        self._closed = False
        self.holds = Holds(condition, self.stand)
        self._thread: threading.Thread | None = None

    def go(self) -> None:
        """Look again whether to run; called with the condition held."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="vcpus", daemon=True)
            self._thread.start()
        self._condition.notify_all()

    def stand(self) -> None:
        """Wait, with the condition held, until the runner stands. In its own thread: do nothing."""
        if threading.current_thread() is self._thread:
            return
        if not self._stands:
            self._interpreter.interrupt()
        self._condition.wait_for(lambda: self._stands)

    def idle(self) -> None:
        """Wait a moment for something that the guest could go on with, unless it must stand."""
        with self._condition:
            self._condition.wait_for(lambda: not self._may_run(), _IDLE_WAIT_S)

    def close(self) -> None:
        """Stop for ever and end the thread. Safe to call twice, and from the thread itself."""
        with self._condition:
            self._closed = True
            self.stand()
            self._condition.notify_all()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        leave = InterpreterExit()
        try:
            while self._take_turn():
                self._interpreter.run(_BUDGET, leave)
                self._handle(leave)
        except Exception as error:  # noqa: BLE001 - or a dead thread would pass for a running guest
            with self._condition:
                self._stands = True
                self._condition.notify_all()
            self._fail(error)

    def _take_turn(self) -> bool:
        """Wait until the interpreter may run; False when it never will again."""
        with self._condition:
            self._stands = True
            self._condition.notify_all()
            self._condition.wait_for(self._may_run)
            self._stands = self._closed
            return not self._closed

    def _may_run(self) -> bool:
        return self._closed or (self._is_wanted() and not self.holds.is_held)
