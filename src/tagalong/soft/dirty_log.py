"""The dirty log of an embedded machine: bitmaps in which the interpreter marks changed pages."""

from collections.abc import Sequence

from tagalong.errors import RunStateError
from tagalong.memory import PageBitmap, Region
from tagalong.soft.native import NativeMachine


class DirtyLog:
    """The pages of `regions` that change; to be called only while no vCPU executes."""

    def __init__(self, native: NativeMachine, regions: Sequence[Region]) -> None:
        self._native = native
        self._regions = regions
        self._pages: list[PageBitmap] | None = None

    def start(self) -> None:
        """Record changed pages from now on."""
        self._pages = [PageBitmap(region.page_count) for region in self._regions]
        self._attach(self._pages)

    def harvest(self) -> list[PageBitmap]:
        """Return the pages changed since the last harvest. Raises RunStateError if not started."""
        if self._pages is None:
            raise RunStateError("the dirty log was not started")
        harvest = [bitmap.copy() for bitmap in self._pages]
        for bitmap in self._pages:
            bitmap.clear()
        self._attach(self._pages)
        return harvest

    def stop(self) -> None:
        """Stop recording."""
        self._attach([None] * len(self._regions))
        self._pages = None

    def _attach(self, bitmaps: Sequence[PageBitmap | None]) -> None:
        for index, bitmap in enumerate(bitmaps):
            self._native.set_dirty_log(index, bitmap)
