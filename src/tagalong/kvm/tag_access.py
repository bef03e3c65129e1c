"""Reads and writes the tags of guest RAM, by whatever port.

KVM allocates a page that was never used when it is asked for its tags, and returns zeros; LDG
does the same: so holes are looked for first and never asked about.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Final

from tagalong._lazy import module_when_used
from tagalong.access.names import AUTO, IOCTL, IOCTL_REASON
from tagalong.errors import AddressError, UsageError
from tagalong.machine import AccessChoice
from tagalong.memory import (
    Gpa,
    GuestMemory,
    PageBitmap,
    Region,
    check_tag_rows,
    page_runs,
    tag_rows,
)
from tagalong.memory.bitmap import flag_runs
from tagalong.mte import PACKED_RATIO

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    import tagalong.access as strategies
    import tagalong.mte.tags as mte_tags
    from tagalong.access import accessor
    from tagalong.kvm.tag_port import TagPort
else:
    strategies = module_when_used("tagalong.access")
    accessor = module_when_used("tagalong.access.accessor")
    mte_tags = module_when_used("tagalong.mte.tags")
    np = module_when_used("numpy")

# Bytes of guest RAM whose tags are copied at once; the unpacked tags take a 16th of it.
_CHUNK_BYTES: Final = 4 << 20


class KvmTagAccess:
    """The tags of `memory`, and the strategy for all of it; `port` is strategy `ioctl` in bulk."""

    def __init__(self, port: TagPort, memory: GuestMemory) -> None:
        self.port = port
        self._ioctl = port
        self._memory = memory
        self._page_bytes = memory.regions[0].page_size_bytes

    @cached_property
    def _used(self) -> dict[Gpa, NDArray[np.bool_]]:
        """Return, for each region by its gpa, which pages are known to be no holes."""
        return {r.gpa: np.zeros(r.page_count, np.bool_) for r in self._memory.regions}

    def use_access(self, name: str, host: Callable[[], strategies.Host]) -> AccessChoice:
        """Touch guest RAM by a strategy from now on; raises as Machine.use_access.

        `host` is asked for if the strategy is another than `ioctl`, which every KVM machine has.
        """
        if name in (AUTO, IOCTL):
            self.port = self._ioctl
            for region in self._memory.regions:
                region.route(None)
            return AccessChoice(IOCTL, "asked for" if name != AUTO else IOCTL_REASON)
        choice = strategies.choose(name, host())
        self.port = route = accessor.Accessor(choice.strategy, self._page_bytes)
        # The data planes are the plain view: strategies of that view copy them directly.
        is_plain = choice.strategy.view is strategies.View.PLAIN
        for region in self._memory.regions:
            region.route(None if is_plain else route)
        return AccessChoice(choice.strategy.name, choice.reason)

    def note_used(self, pages: Sequence[PageBitmap]) -> None:
        """Remember pages of each region that are no holes: they never become one again."""
        for used, bitmap in zip(self._used.values(), pages, strict=True):
            used[bitmap.pages()] = True

    def read(self, gpa: Gpa, length_bytes: int) -> NDArray[np.uint8]:
        """Return packed tags, shape (length_bytes / 32,). Raises AddressError, HostError."""
        region, offset = self._locate(gpa, length_bytes)
        page = region.page_size_bytes
        used = self._find_used(region, offset // page, length_bytes // page)
        if length_bytes <= _CHUNK_BYTES and used.all():  # what a migration asks for all the time
            return self._get(gpa, length_bytes)
        packed = np.zeros(length_bytes // PACKED_RATIO, np.uint8)
        for start, stop in _chunks(used, page):
            part = self._get(gpa + start, stop - start)
            packed[start // PACKED_RATIO : stop // PACKED_RATIO] = part
        return packed

    def write(self, gpa: Gpa, packed: NDArray[np.uint8]) -> None:
        """Set packed tags. Raises UsageError, AddressError, HostError.

        A page that was never used and gets zero tags stays unused.
        """
        if packed.dtype != np.uint8 or packed.ndim != 1:
            raise UsageError(
                f"packed tags must be one row of uint8, not {packed.dtype} of shape {packed.shape}"
            )
        region, offset = self._locate(gpa, packed.size * PACKED_RATIO)
        page = region.page_size_bytes
        wanted = self._find_used(region, offset // page, packed.size * PACKED_RATIO // page)
        if packed.size <= _CHUNK_BYTES // PACKED_RATIO and wanted.all():
            self._set(gpa, packed)
            return
        wanted |= ~mte_tags.zero_pages(packed, page)  # they are used from now on: so remember them
        for start, stop in _chunks(wanted, page):
            part = packed[start // PACKED_RATIO : stop // PACKED_RATIO]
            self._set(gpa + start, part)

    def read_pages(
        self, number: int, pages: NDArray[np.int64], out: NDArray[np.uint8] | None = None
    ) -> NDArray[np.uint8]:
        """Return packed tags of pages of region `number`, one row each, as `read`; in `out`."""
        region = self._memory.region_of_pages(number, pages)
        row_bytes = region.page_size_bytes // PACKED_RATIO
        used = self._find_used_pages(region, pages)
        found = self.port.read_runs(region.gpa_runs(page_runs(pages[used]))).reshape(-1, row_bytes)
        if out is None and used.all():
            return found
        rows = tag_rows(pages.size, region.page_size_bytes, out)
        rows[~used] = 0
        rows[used] = found
        return rows

    def write_pages(self, number: int, pages: NDArray[np.int64], packed: NDArray[np.uint8]) -> None:
        """Set packed tags of pages of region `number`, one row each, as `write`."""
        region = self._memory.region_of_pages(number, pages)
        check_tag_rows(pages.size, region.page_size_bytes, packed)
        wanted = self._find_used_pages(region, pages) | packed.any(axis=1)
        chosen = pages[wanted]
        with region.stores.storing_pages(chosen):
            self.port.write_runs(region.gpa_runs(page_runs(chosen)), packed[wanted].reshape(-1))
        self._used[region.gpa][chosen] = True

    def _find_used_pages(self, region: Region, pages: NDArray[np.int64]) -> NDArray[np.bool_]:
        used = self._used[region.gpa][pages]
        if not used.all():
            for first, count in page_runs(pages[~used]).tolist():
                self._find_used(region, first, count)
            used = self._used[region.gpa][pages]
        return used

    def _get(self, gpa: int, length_bytes: int) -> NDArray[np.uint8]:
        return self.port.read_runs(np.array([[gpa, length_bytes]], np.int64))

    def _set(self, gpa: int, packed: NDArray[np.uint8]) -> None:
        length = packed.size * PACKED_RATIO
        with self._memory.storing(Gpa(gpa), length):
            self.port.write_runs(np.array([[gpa, length]], np.int64), packed)

    def _find_used(self, region: Region, first: int, count: int) -> NDArray[np.bool_]:
        """Return which pages of a region are no holes, and remember them."""
        known = self._used[region.gpa][first : first + count]
        if not known.all():
            for start, stop in flag_runs(~known):
                known[start:stop] = region.used_pages(first + start, stop - start)
        return known

    def _locate(self, gpa: Gpa, length_bytes: int) -> tuple[Region, int]:
        if (gpa | length_bytes) % self._page_bytes:
            raise AddressError(
                f"tags of {gpa:#x}+{length_bytes:#x}: not aligned to {self._page_bytes:#x}"
            )
        return self._memory.locate(gpa, length_bytes)


def _chunks(pages: NDArray[np.bool_], page_bytes: int) -> Iterator[tuple[int, int]]:
    """Yield the byte ranges of the pages that are set, none larger than is copied at once."""
    for first, last in flag_runs(pages):
        for start in range(first * page_bytes, last * page_bytes, _CHUNK_BYTES):
            yield start, min(start + _CHUNK_BYTES, last * page_bytes)
