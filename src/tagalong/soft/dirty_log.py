"""The dirty log of an embedded machine: what its vCPUs change, and what the host stores.

The interpreter marks pages of 4 KiB in bitmaps of this log, whatever the machine's pages are; the
host's stores are in the log of each region (`tagalong.memory.stores`), those of the access
strategies' CPU among them.
"""

from collections.abc import Sequence

from tagalong.errors import RunStateError
from tagalong.memory import PageBitmap, Region
from tagalong.soft.build import PAGE_BYTES
from tagalong.soft.native import NativeMachine


class SoftDirtyLog:
    """The pages of `regions` that change; to be called only while no vCPU executes."""

    def __init__(self, native: NativeMachine, regions: Sequence[Region]) -> None:
        self._native = native
        self._regions = regions
        self._pages: list[PageBitmap] | None = None

    def start(self) -> None:
        """Record changed pages from now on."""
        for region in self._regions:
            region.stores.start()
        self._pages = [PageBitmap(region.size_bytes // PAGE_BYTES) for region in self._regions]
        self._attach(self._pages)

    def harvest(self) -> list[PageBitmap]:
        """Return the pages changed since the last harvest. Raises RunStateError if not started."""
        if self._pages is None:
            raise RunStateError("the dirty log was not started: call start_dirty_log first")
        harvest = [
            bitmap.in_pages_of(region.page_size_bytes, PAGE_BYTES) | region.stores.harvest()
            for bitmap, region in zip(self._pages, self._regions, strict=True)
        ]
        for bitmap in self._pages:
            bitmap.clear()
        self._attach(self._pages)
        return harvest

    def stop(self) -> None:
        """Stop recording."""
        self._attach([None] * len(self._regions))
        for region in self._regions:
            region.stores.stop()
        self._pages = None

    def _attach(self, bitmaps: Sequence[PageBitmap | None]) -> None:
        for index, bitmap in enumerate(bitmaps):
            self._native.set_dirty_log(index, bitmap)
