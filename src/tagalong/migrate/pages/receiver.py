"""Places received pages in a machine, and leaves pages alone that are zero there already."""

import threading
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from tagalong import wire
from tagalong.machine import Machine
from tagalong.memory import PageBitmap, page_index, run_pages
from tagalong.memory.zeros import dense_zeros, sparse_zeros
from tagalong.migrate.pages.pump import Segments, segments_of
from tagalong.mte import PACKED_RATIO
from tagalong.wire.limits import MAX_BATCH_TAG_BYTES

Flags = list[NDArray[np.bool_]]
Pages = NDArray[np.int64]

# Pages that are zeroed at once: a bound on the memory for the zeros.
_ZEROED_AT_ONCE = 4096


class PageInventory:
    """What is known of each page of a destination's machine: flags, an array for each region.

    Channels use it side by side, for different pages. `data_used`, `tags_used`: the plane may be
    other than zero. `stale`: it was so before the migration; an empty list if no page was.
    `placed`: received whole in the round under way. `rounds` have ended on all of `channels`
    connections, `pages` were received in total.
    """

    def __init__(self, machine: Machine, channels: int = 1) -> None:
        used = _used_pages(machine)
        self.data_used, self.tags_used = ([_flags(it) for it in used] for _ in range(2))
        holds_nothing = not any(bitmap.count() for bitmap in used)
        self.stale = [] if holds_nothing else [_flags(it) for it in used]
        self.placed = self._none_placed()
        self.channels = channels
        self.rounds = 0
        self.pages = 0
        self._ended = 0
        self._lock = threading.Condition()

    def _none_placed(self) -> Flags:
        return [sparse_zeros(flags.size, np.bool_) for flags in self.data_used]

    def note_pages(self, count: int) -> None:
        """Count pages that were received."""
        with self._lock:
            self.pages += count

    def end_round(self) -> None:
        """Note that one connection has ended its round."""
        with self._lock:
            self._ended += 1
            if self._ended == self.channels:
                self.rounds += 1
                self._ended = 0
                self.placed = self._none_placed()
            self._lock.notify_all()

    def wait_for_others(self, timeout_s: float) -> bool:
        """Wait until all connections but one have ended the round; return whether they have."""
        with self._lock:
            return self._lock.wait_for(lambda: self._ended == self.channels - 1, timeout_s)

    def interrupt_round(self) -> None:
        """Forget which connections have ended the round: all of them will be replaced."""
        with self._lock:
            self._ended = 0


def _used_pages(machine: Machine) -> list[PageBitmap]:
    """Return the pages of each region that may be other than zero."""
    regions = machine.memory.regions
    nothing = [PageBitmap(region.page_count) for region in regions]
    if machine.description.tags_in_place:  # what is there is what belongs there
        return nothing
    # Reserved memory is populated and zero: a page that arrives as zero need not touch it.
    if all(region.was_reserved for region in regions):
        return nothing
    return [
        empty if region.was_reserved else populated
        for region, empty, populated in zip(
            regions, nothing, machine.populated_pages(), strict=True
        )
    ]


def _flags(bitmap: PageBitmap) -> NDArray[np.bool_]:
    return bitmap.flags() if bitmap.count() else sparse_zeros(bitmap.page_count, np.bool_)


class PageReceiver:
    """Receives pages over one connection into `machine`, which is paused; a wire.Placement.

    Records in `inventory` which planes of which pages hold something, so that what comes as
    zero and was never used stays a hole. `scatters`: whether the reader of the connection fills
    scattered pieces of memory at no cost for each (native code does; Python would take one
    system call for each run). `pages_in_round` counts up to `end_round`.
    """

    def __init__(
        self,
        machine: Machine,
        inventory: PageInventory,
        *,
        has_tags: bool,
        scatters: bool = True,
    ) -> None:
        self.pages_in_round = 0
        self._machine = machine
        self._inventory = inventory
        self._has_tags = has_tags
        self._scatters = scatters
        self._tags = dense_zeros(MAX_BATCH_TAG_BYTES, np.uint8).data
        self._page_bytes = machine.description.page_size_bytes
        self._starts = np.array([region.gpa for region in machine.memory.regions], np.int64)

    def tags(self, size_bytes: int) -> memoryview:
        """As wire.Placement: the same memory each time, since a batch is taken before the next."""
        return self._tags[:size_bytes]

    def data(self, batch: wire.Batch) -> Sequence[memoryview]:
        """As wire.Placement: guest RAM itself, as Segments, or a buffer that `take` copies from.

        A buffer where an access strategy writes guest RAM: no pointer into that RAM may leave its
        region. And where many runs would be received one by one.
        """
        is_routed = any(region.is_routed for region in self._machine.memory.regions)
        if is_routed or (len(batch.runs) > 1 and not self._scatters):
            return (memoryview(bytearray(batch.ram_bytes)),)
        return self._in_place(batch.runs)

    def _in_place(self, runs: wire.Runs) -> Segments:
        parts = []
        for number, ranges in self._ranges(runs):
            pages = run_pages(ranges)
            # From its first byte on the page may hold something, whatever becomes of the batch.
            self._inventory.data_used[number][page_index(pages)] = True
            region = self._machine.memory.regions[number]
            region.stores.mark_pages(pages)
            parts.append(segments_of(region, ranges))
        array = np.concatenate([part.array for part in parts])
        return Segments(array, self._page_bytes, [part.owner for part in parts])

    def take(self, batch: wire.Pages) -> None:
        """Complete a batch; data that are Segments are in place already.

        Raises what Machine.write_page_tags raises.
        """
        at = 0
        for number, ranges in self._ranges(batch.runs):
            pages = run_pages(ranges)
            if batch.data is wire.NoBytes.ZERO:
                self._zero_data(number, pages)
            elif not isinstance(batch.data, wire.NoBytes | Segments):
                self._scatter(number, pages, batch.data[0], at)
            if batch.data is not wire.NoBytes.ZERO:
                # Data that came into place were marked before they came; see memory.stores.
                self._machine.memory.regions[number].stores.mark_pages(pages)
            self._take_tags(number, pages, batch.tags, at)
            index = page_index(pages)
            if self._inventory.stale:
                self._inventory.stale[number][index] = False
            self._inventory.placed[number][index] = True
            at += pages.size
        self._inventory.note_pages(batch.page_count)
        self.pages_in_round += batch.page_count

    def end_round(self) -> int:
        """Return how many pages were taken in this round, and begin the next one."""
        pages, self.pages_in_round = self.pages_in_round, 0
        self._inventory.end_round()
        return pages

    def clear_stale(self) -> None:
        """Zero the pages that were used before the migration and were not received.

        A new machine has none; but pages that are not received must be zero, not left to luck.
        """
        for number, stale in enumerate(self._inventory.stale):
            pages = np.flatnonzero(stale)
            for at in range(0, pages.size, _ZEROED_AT_ONCE):
                self._zero_data(number, pages[at : at + _ZEROED_AT_ONCE])
                self._zero_tags(number, pages[at : at + _ZEROED_AT_ONCE])

    def _ranges(self, runs: wire.Runs) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """Yield each region's number with its runs, in order: first page, number of pages."""
        ranges = runs.array.astype(np.int64)
        regions = np.searchsorted(self._starts, ranges[:, 0], "right") - 1
        ranges[:, 0] = (ranges[:, 0] - self._starts[regions]) // self._page_bytes
        # The runs ascend, so those of one region are adjacent.
        edges = [0, *(np.flatnonzero(np.diff(regions)) + 1).tolist(), len(ranges)]
        for start, stop in pairwise(edges):
            yield int(regions[start]), ranges[start:stop]

    def _scatter(self, number: int, pages: Pages, data: memoryview, at: int) -> None:
        rows = np.frombuffer(data, np.uint8).reshape(-1, self._page_bytes)
        region = self._machine.memory.regions[number]
        region.write_pages(pages, rows[at : at + pages.size])
        self._inventory.data_used[number][pages] = True

    def _take_tags(
        self, number: int, pages: Pages, tags: memoryview | wire.NoBytes, at: int
    ) -> None:
        if isinstance(tags, wire.NoBytes):
            self._zero_tags(number, pages)
            return
        rows = np.frombuffer(tags, np.uint8).reshape(-1, self._page_bytes // PACKED_RATIO)
        self._machine.write_page_tags(number, pages, rows[at : at + pages.size])
        self._inventory.tags_used[number][page_index(pages)] = True

    def _zero_data(self, number: int, pages: Pages) -> None:
        used = pages[self._inventory.data_used[number][pages]]
        if used.size:
            zero = np.zeros((1, self._page_bytes), np.uint8)
            self._machine.memory.regions[number].write_pages(used, zero)
            self._inventory.data_used[number][used] = False

    def _zero_tags(self, number: int, pages: Pages) -> None:
        used = pages[self._inventory.tags_used[number][pages]]
        if self._has_tags and used.size:
            zeros = np.zeros((used.size, self._page_bytes // PACKED_RATIO), np.uint8)
            self._machine.write_page_tags(number, used, zeros)
            self._inventory.tags_used[number][used] = False
