"""Guest RAM of the embedded machine as the VMM touches it: its planes, or an access strategy."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tagalong.access import Host, View, choose
from tagalong.access.accessor import Accessor
from tagalong.access.names import AUTO, IOCTL, IOCTL_REASON
from tagalong.machine import AccessChoice
from tagalong.machine.tag_ranges import read_tag_range, write_tag_range
from tagalong.memory import GuestMemory, check_tag_rows, page_runs, tag_rows
from tagalong.mte import PACKED_RATIO


class SoftTagAccess:
    """The tags of `memory`, and the strategy for all of it; `host` is asked for when needed.

    Direct use of the planes is strategy `ioctl` here: data without checks, and tags copied by
    the machine that stores them.
    """

    def __init__(self, memory: GuestMemory, host: Callable[[], Host]) -> None:
        self._memory = memory
        self._page_bytes = memory.regions[0].page_size_bytes
        self._host = host
        self._accessor: Accessor | None = None

    def use_access(self, name: str) -> AccessChoice:
        """Touch guest RAM by a strategy from now on; raises as Machine.use_access."""
        if name in (AUTO, IOCTL):
            self._accessor = None
            for region in self._memory.regions:
                region.route(None)
            return AccessChoice(IOCTL, "asked for" if name != AUTO else IOCTL_REASON)
        choice = choose(name, self._host())
        accessor = Accessor(choice.strategy, self._page_bytes)
        self._accessor = accessor
        for region in self._memory.regions:
            region.route(None if choice.strategy.view is View.PLAIN else accessor)
        return AccessChoice(choice.strategy.name, choice.reason)

    def read(self, gpa: int, length_bytes: int) -> NDArray[np.uint8]:
        """Return packed allocation tags of a range of whole tag bytes, as a copy."""
        if self._accessor is None:
            return self._memory.read_tags(gpa, length_bytes)
        self._memory.locate(gpa, length_bytes)
        return read_tag_range(self._accessor.read_range, gpa, length_bytes, self._page_bytes)

    def write(self, gpa: int, packed: NDArray[np.uint8]) -> None:
        """Set allocation tags from a gpa on, a multiple of 32."""
        if self._accessor is None:
            self._memory.write_tags(gpa, packed)
            return
        self._memory.locate(gpa, packed.size * PACKED_RATIO)
        write_tag_range(
            self._accessor.read_range, self._accessor.write_tags, gpa, packed, self._page_bytes
        )

    def read_pages(
        self, number: int, pages: NDArray[np.int64], out: NDArray[np.uint8] | None
    ) -> NDArray[np.uint8]:
        """Return packed allocation tags of scattered pages, a row each, as a copy."""
        region = self._memory.region_of_pages(number, pages)
        if self._accessor is None:
            return region.read_page_tags(pages, out)
        rows = tag_rows(pages.size, self._page_bytes, out)
        rows.reshape(-1)[:] = self._accessor.read_runs(region.gpa_runs(page_runs(pages)))
        return rows

    def write_pages(self, number: int, pages: NDArray[np.int64], packed: NDArray[np.uint8]) -> None:
        """Set allocation tags of scattered pages, a row each."""
        region = self._memory.region_of_pages(number, pages)
        check_tag_rows(pages.size, self._page_bytes, packed)
        if self._accessor is None:
            region.write_page_tags(pages, packed)
            return
        with region.stores.storing_pages(pages):
            self._accessor.write_runs(
                region.gpa_runs(page_runs(pages)), np.ascontiguousarray(packed).reshape(-1)
            )
