"""Holds a machine's vCPUs between two instructions, for as long as any caller needs that."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class VcpuHolds:
    """Counts the holds on a machine's vCPUs; they may run while there is none.

    `condition` guards the machine; it is notified when a hold ends. `wait_stopped` stops the
    vCPUs and returns when none of them runs; it is called with the condition held.
    """

    def __init__(self, condition: threading.Condition, wait_stopped: Callable[[], None]) -> None:
        self._condition = condition
        self._wait_stopped = wait_stopped
        self._count = 0
        self._when_free: Callable[[], None] | None = None

    @property
    def is_held(self) -> bool:
        """Return whether there is a hold."""
        return self._count > 0

    def hold(self) -> None:
        """Stop the vCPUs until `release`; called with the condition held."""
        self._count += 1
        try:
            self._wait_stopped()
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """End one hold; called with the condition held."""
        self._count -= 1
        self._call_if_free()
        self._condition.notify_all()

    def when_free(self, action: Callable[[], None] | None) -> None:
        """Call `action` once, as soon as there is no hold; None: call nothing any more.

        Called with the condition held, which `action` has, too.
        """
        self._when_free = action
        self._call_if_free()

    def _call_if_free(self) -> None:
        if not self.is_held and self._when_free is not None:
            action, self._when_free = self._when_free, None
            action()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the vCPUs for a block, which has the condition."""
        with self._condition:
            self.hold()
            try:
                yield
            finally:
                self.release()

    @contextmanager
    def held_unless(self, runs: Callable[[], bool]) -> Iterator[bool]:
        """Hold the vCPUs for a block unless the machine `runs`; yield whether they are held.

        `runs` is called with the condition held; the block does not have it. Raises what
        `runs` raises.
        """
        with self._condition:
            is_held = not runs()
            if is_held:
                self.hold()
        try:
            yield is_held
        finally:
            if is_held:
                with self._condition:
                    self.release()
