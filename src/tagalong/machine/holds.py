"""Keeping a machine's vCPUs between two instructions, for as long as anybody wants that."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Holds:
    """Counts who wants the vCPUs of a machine to stand; whoever lets them run asks `is_held`.

    `condition` guards the machine. `stand` makes its vCPUs stand and returns when they do; it
    is called with the condition held.
    """

    def __init__(self, condition: threading.Condition, stand: Callable[[], None]) -> None:
        self._condition = condition
        self._stand = stand
        self._count = 0

    @property
    def is_held(self) -> bool:
        """Return whether anybody wants the vCPUs to stand."""
        return self._count > 0

    def hold(self) -> None:
        """Make the vCPUs stand until `let_go`; called with the condition held."""
        self._count += 1
        try:
            self._stand()
        except BaseException:
            self.let_go()
            raise

    def let_go(self) -> None:
        """Take one `hold` back; called with the condition held."""
        self._count -= 1
        self._condition.notify_all()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Make the vCPUs stand for the length of the block, which has the condition."""
        with self._condition:
            self.hold()
            try:
                yield
            finally:
                self.let_go()

    @contextmanager
    def held_unless(self, runs: Callable[[], bool]) -> Iterator[bool]:
        """Hold the vCPUs for the length of the block unless the machine `runs`.

        That is asked with the condition held; the block has it no more. Gives whether they
        stand. Raises what `runs` raises.
        """
        with self._condition:
            stands = not runs()
            if stands:
                self.hold()
        try:
            yield stands
        finally:
            if stands:
                with self._condition:
                    self.let_go()
