"""The one decision between an order to end a destination and the take-over of its VM."""

import threading

from tagalong.migrate.cancellation import cancelled
from tagalong.progress import CancelToken


class EndOrder:
    """An order to end, and whether it came before the VM was taken over; a CancelToken.

    Two threads meet here. One has received COMMIT and is about to take the VM over: after that
    the source will never run it again. The other one has an order from the operator (a signal,
    `quit`) to end this process. Whatever looks only at its own side loses a VM: an order that
    is looked at ten times a second misses a COMMIT that arrives in between, the VM is taken over,
    RUNNING is said, and the process ends as ordered. So one lock decides which came first, and
    each side learns it at once:

    - the order first: the VM is not taken over, the source gets ABORT and keeps it;
    - the take-over first: `set` returns False, and the order is for a VM that runs here.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_set = False
        self._is_taken_over = False

    def is_set(self) -> bool:
        """Return whether the end was ordered before the take-over."""
        return self._is_set

    def set(self) -> bool:
        """Order the end; return whether no VM will be taken over. From any thread."""
        with self._lock:
            self._is_set = not self._is_taken_over
            return self._is_set

    def begin_take_over(self) -> bool:
        """Decide to take the VM over; return whether that may be. Once, on COMMIT."""
        with self._lock:
            self._is_taken_over = not self._is_set
            return self._is_taken_over


def begin_take_over(order: CancelToken | None) -> None:
    """Decide to take the VM over. Raises MigrationCancelledError if the end was ordered before.

    For a token that is no EndOrder, what is set at the same time may come too late.
    """
    if isinstance(order, EndOrder):
        may_take_over = order.begin_take_over()
    else:
        may_take_over = order is None or not order.is_set()
    if not may_take_over:
        raise cancelled()
