"""Copies guest RAM by one strategy: tries again after a tag check fault, then gives up."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from tagalong._lazy import module_when_used
from tagalong.access.host import Fault
from tagalong.errors import AccessFaultError
from tagalong.memory import Gpa
from tagalong.mte import PACKED_RATIO

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tagalong.access.strategy import Strategy
else:
    np = module_when_used("numpy")

# Tag check faults in a row, for one page, after which a copy is given up.
_ATTEMPTS: Final = 100

_Operation = Callable[[Gpa, "NDArray[np.uint8]"], Fault | None]


class Accessor:
    """Guest RAM through `strategy`, for several threads; a memory.DataRoute.

    A guest that changes tags meanwhile causes tag check faults: the copy is tried again, page
    by page. Raises AccessFaultError when that does not help, or for another fault.
    """

    def __init__(self, strategy: Strategy, page_bytes: int) -> None:
        self.strategy = strategy
        self._page_bytes = page_bytes
        self._lock = threading.Lock()  # a host works for one thread at a time

    def read(self, gpa: Gpa, target: NDArray[np.uint8]) -> None:
        """Fill `target` with data."""
        self._copy(self.strategy.read, gpa, target, 1)

    def write(self, gpa: Gpa, source: NDArray[np.uint8]) -> None:
        """Write data."""
        self._copy(self.strategy.write, gpa, source, 1)

    def read_tags(self, gpa: Gpa, packed: NDArray[np.uint8]) -> None:
        """Fill `packed` with the tags of whole pages."""
        self._copy(self.strategy.read_tags, gpa, packed, PACKED_RATIO)

    def write_tags(self, gpa: Gpa, packed: NDArray[np.uint8]) -> None:
        """Set the tags of whole pages."""
        self._copy(self.strategy.write_tags, gpa, packed, PACKED_RATIO)

    def read_range(self, gpa: Gpa, length_bytes: int) -> NDArray[np.uint8]:
        """Return the packed tags of whole pages."""
        return self.read_runs(np.array([[gpa, length_bytes]], np.int64))

    def read_runs(self, runs: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the packed tags of `runs`, rows of gpa and size in bytes, in one row."""
        packed = np.empty(int(runs[:, 1].sum()) // PACKED_RATIO, np.uint8)
        at = 0
        for gpa, size_bytes in runs.tolist():
            end = at + size_bytes // PACKED_RATIO
            self.read_tags(Gpa(gpa), packed[at:end])
            at = end
        return packed

    def write_runs(self, runs: NDArray[np.int64], packed: NDArray[np.uint8]) -> None:
        """Set the tags of `runs` from one row."""
        at = 0
        for gpa, size_bytes in runs.tolist():
            end = at + size_bytes // PACKED_RATIO
            self.write_tags(Gpa(gpa), packed[at:end])
            at = end

    def _copy(self, operation: _Operation, gpa: Gpa, array: NDArray[np.uint8], ratio: int) -> None:
        with self._lock:
            fault = operation(gpa, array)
            if fault is None:
                return
            if not fault.is_tag_check:
                raise self._error(gpa, fault)
            step = self._page_bytes // ratio
            for at in range(0, array.size, step):
                self._copy_page(operation, Gpa(gpa + at * ratio), array[at : at + step])

    def _copy_page(self, operation: _Operation, gpa: Gpa, part: NDArray[np.uint8]) -> None:
        for _ in range(_ATTEMPTS):
            fault = operation(gpa, part)
            if fault is None:
                return
        if fault is not None:
            raise self._error(gpa, fault)

    def _error(self, gpa: Gpa, fault: Fault) -> AccessFaultError:
        advice = ""
        if fault.is_tag_check:
            advice = (
                f" {_ATTEMPTS} times in a row: the guest changes tags meanwhile; pause it, or "
                "choose another strategy with --access"
            )
        return AccessFaultError(
            f"access strategy {self.strategy.name!r} took {fault} at gpa {gpa:#x}{advice}"
        )
