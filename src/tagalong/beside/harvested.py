"""Tags that came with a harvest, until they are sent: so that they need no round trip of their own.

Tags are right from the harvest on: whatever changes them later makes the page due again. So of two
harvests that took a page, the later one has its tags.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

Pages = NDArray[np.int64]

# The last one before the guest was stopped, and the one after.
_KEPT_HARVESTS: Final = 2


class HarvestedTags:
    """The tags of the last harvests of one slot; what is not here is to be read."""

    def __init__(self) -> None:
        self._harvests: list[tuple[Pages, NDArray[np.uint8]]] = []  # the latest first

    def add(self, pages: Pages, rows: NDArray[np.uint8] | None) -> None:
        """Note a harvest: ascending pages, a row of packed tags for each; None: without tags."""
        if rows is None:
            self._harvests.clear()  # those of earlier harvests may be of the same pages
        elif pages.size:
            self._harvests = [(pages, rows), *self._harvests][:_KEPT_HARVESTS]

    def copy_into(self, out: NDArray[np.uint8], pages: Pages) -> NDArray[np.int64]:
        """Copy the tags of ascending `pages` into the rows of `out`, as far as they are here.

        Returns the rows that were not filled.
        """
        left: NDArray[np.int64] = np.arange(pages.size)
        for known, rows in self._harvests:
            at = np.searchsorted(known, pages[left])
            at[at == known.size] = 0
            is_here = known[at] == pages[left]
            out[left[is_here]] = rows[at[is_here]]
            left = left[~is_here]
        return left
