"""Sends pages: gathers them into batches, leaves out what is zero, and keeps count.

While the guest runs it may write to a page between the moment its checksum is taken and
the moment its bytes leave. So batches of a running guest are copied into a buffer first,
which stays in the processor's cache; those of a guest that stands go out of guest RAM
itself if they are in one piece. What the guest writes after the copy is in the dirty log.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tagalong import wire
from tagalong.machine import Machine
from tagalong.memory import PageBitmap, Region, page_runs
from tagalong.migrate.digest import Tick
from tagalong.migrate.link import Link
from tagalong.mte.tags import zero_rows

BATCH_BYTES = 1 << 20

# Page numbers are unpacked from a bitmap for so many words at a time.
_WINDOW_WORDS = 1024
_WORD_BITS = 64


@dataclass
class Tally:
    """What was sent; `busy_s` is the time spent on batches of which bytes were sent."""

    pages: int = 0
    data_bytes_wire: int = 0
    tag_bytes_wire: int = 0
    busy_s: float = 0.0

    @property
    def wire_bytes(self) -> int:
        """Return the bytes of both planes on the wire."""
        return self.data_bytes_wire + self.tag_bytes_wire


class PageSender:
    """Sends pages of `machine` over `link`.

    With `drop_tags` all tags are sent as zero: the control experiment, which shows what is
    lost without them.
    """

    def __init__(self, machine: Machine, link: Link, *, drop_tags: bool) -> None:
        self._machine = machine
        self._link = link
        self._has_tags = machine.description.mte_version != 0
        self._sends_tags = self._has_tags and not drop_tags
        self._buffer = np.empty(BATCH_BYTES, np.uint8)

    def send(self, pages: Sequence[PageBitmap], tick: Tick, *, tally: Tally, is_live: bool) -> None:
        """Send the pages of each region and add them to `tally`.

        `tick` is called before each batch. `is_live`: the guest may write meanwhile. Raises
        what `Link.send` raises and what `tick` does, HostError if RAM cannot be read.
        """
        page = self._machine.description.page_size_bytes
        for region, bitmap in enumerate(pages):
            for numbers in batches(bitmap, BATCH_BYTES // page):
                tick()
                began = time.monotonic()
                wire_bytes = tally.wire_bytes
                self._send_batch(region, numbers, tally, is_live=is_live)
                if tally.wire_bytes > wire_bytes:
                    tally.busy_s += time.monotonic() - began

    def _send_batch(
        self, region: int, numbers: NDArray[np.int64], tally: Tally, *, is_live: bool
    ) -> None:
        """Send these pages: those with data in one record, those that are zero in another."""
        # Which plane is read first does not matter: the guest's change of either in between
        # marks the page dirty, and both are sent again.
        ram = self._machine.memory.regions[region]
        page = ram.page_size_bytes
        data = self._data(ram, numbers, is_live=is_live)
        is_zero = zero_rows(data, page)
        tags = self._machine.read_page_tags(region, numbers) if self._sends_tags else None
        if is_zero.all():
            self._send_record(ram, numbers, None, tags, tally)
        elif not is_zero.any():
            self._send_record(ram, numbers, data, tags, tally)
        else:
            rows = data.reshape(-1, page)[~is_zero].reshape(-1)
            for rest, chosen in ((rows, ~is_zero), (None, is_zero)):
                chosen_tags = None if tags is None else tags[chosen]
                self._send_record(ram, numbers[chosen], rest, chosen_tags, tally)

    def _data(
        self, region: Region, numbers: NDArray[np.int64], *, is_live: bool
    ) -> NDArray[np.uint8]:
        """Return the pages' data in one piece."""
        page = region.page_size_bytes
        first, last = int(numbers[0]), int(numbers[-1])
        if last - first + 1 == numbers.size and not is_live:
            return region.data[first * page : (last + 1) * page]
        batch = self._buffer[: numbers.size * page]
        # Reading by the descriptor and not through the mapping fills no hole.
        region.read_pages_into(batch, numbers)
        return batch

    def _send_record(
        self,
        region: Region,
        numbers: NDArray[np.int64],
        data: NDArray[np.uint8] | None,
        tags: NDArray[np.uint8] | None,
        tally: Tally,
    ) -> None:
        runs = page_runs(numbers)
        runs[:, 0] = region.gpa + runs[:, 0] * region.page_size_bytes
        record = wire.Pages(
            runs=wire.Runs(runs.view(np.uint64)),
            data=wire.NoBytes.ZERO if data is None else (data.data,),
            tags=self._tag_plane(tags),
        )
        wire_bytes = self._link.send(record)
        data_bytes = 0 if data is None else data.size
        tally.pages += numbers.size
        tally.data_bytes_wire += data_bytes
        tally.tag_bytes_wire += wire_bytes - data_bytes - wire.pages_overhead_bytes(len(runs))

    def _tag_plane(self, tags: NDArray[np.uint8] | None) -> memoryview | wire.NoBytes:
        if tags is None:
            return wire.NoBytes.ZERO if self._has_tags else wire.NoBytes.ABSENT
        return tags.reshape(-1).data


def batches(bitmap: PageBitmap, most: int) -> Iterator[NDArray[np.int64]]:
    """Yield the numbers of a bitmap's pages in order, at most `most` at a time."""
    for start in range(0, bitmap.words.size, _WINDOW_WORDS):
        first = start * _WORD_BITS
        count = min(_WINDOW_WORDS * _WORD_BITS, bitmap.page_count - first)
        window = PageBitmap(count, bitmap.words[start : start + _WINDOW_WORDS])
        numbers = window.pages() + first
        for at in range(0, numbers.size, most):
            yield numbers[at : at + most]
