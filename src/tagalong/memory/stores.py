"""The log of what the host stores into a region: the one port of all its stores.

A dirty log sees the stores of vCPUs: the interpreter marks them, KVM write-protects pages for
them. Neither sees a store of this process, such as a device's answer in a virtqueue. So every
store of the host marks its pages here, and a machine merges these marks into each harvest.

A harvest may fall at any moment of a store, and it must lose nothing:

    mark    store .......    mark
    ^       ^           ^    ^
    |       |           |    the page is marked, and the next harvest has it
    |       |           the first mark may be in an old harvest, whose reader copied the page
    |       |           before the store's last byte: the second mark sends the page again
    |       a page that has changed in part is marked already: a harvest never calls it clean
    the harvest has the page, and a copy made after it is made again for the second mark

One mark before would lose a store that a harvest and its copy overtake. One mark after would
let a harvest call a page clean whose bytes change right then. Two marks cost nothing where no
harvest comes between them: the second sets a bit that is set. No store waits for a harvest
and no harvest for a store, so neither can hold the other up, whatever locks it has.

What remains is the last harvest, after which there is no other. A store in progress at that moment
is in it, but its bytes may come after the copy. Therefore a device stores in the access of a vCPU
that it answers, which `Machine.pause` waits for; code that stores from a thread of its own ends
that before it treats the machine as paused.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tagalong.memory.bitmap import PageBitmap, page_runs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    from numpy.typing import NDArray


class HostStores:
    """The pages of one region that the host stored to; from any thread.

    While no log is on, a mark costs one look at an attribute: a destination that receives
    pages pays no more for this.
    """

    def __init__(self, page_count: int) -> None:
        self._page_count = page_count
        self._lock = threading.Lock()
        self._marked: PageBitmap | None = None

    def start(self) -> None:
        """Log from now on; marks of before are forgotten."""
        with self._lock:
            self._marked = PageBitmap(self._page_count)

    def stop(self) -> None:
        """Log no more, and forget."""
        with self._lock:
            self._marked = None

    def harvest(self) -> PageBitmap:
        """Return the pages marked since the last harvest; none while no log is on."""
        fresh = PageBitmap(self._page_count)
        with self._lock:
            if self._marked is None:
                return fresh
            marked, self._marked = self._marked, fresh
            return marked

    @property
    def is_logging(self) -> bool:
        """Return whether a log is on, so that a mark does anything."""
        return self._marked is not None

    def mark(self, first: int, count: int) -> None:
        """Mark the pages [first, first + count), which the caller has checked."""
        if self._marked is None:
            return
        with self._lock:
            if self._marked is not None:
                self._marked.set_range(first, count)

    def mark_pages(self, pages: NDArray[np.int64]) -> None:
        """Mark pages, given by number in ascending order, which the caller has checked."""
        if self._marked is None:
            return
        runs = page_runs(pages)
        with self._lock:
            if self._marked is not None:
                self._marked.set_runs(runs)

    def mark_by(self, set_pages: Callable[[PageBitmap], None]) -> None:
        """Mark the pages that `set_pages` sets in the bitmap that it is given, of all pages."""
        if self._marked is None:
            return
        with self._lock:
            if self._marked is not None:
                set_pages(self._marked)

    @contextmanager
    def storing(self, first: int, count: int) -> Iterator[None]:
        """Mark the pages [first, first + count) before and after the block stores to them."""
        self.mark(first, count)
        try:
            yield
        finally:
            self.mark(first, count)

    @contextmanager
    def storing_pages(self, pages: NDArray[np.int64]) -> Iterator[None]:
        """Mark pages as `mark_pages` does, before and after the block stores to them."""
        self.mark_pages(pages)
        try:
            yield
        finally:
            self.mark_pages(pages)
