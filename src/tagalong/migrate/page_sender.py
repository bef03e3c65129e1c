"""Sends pages: cuts them into batches, leaves out what is zero, and keeps count.

While the guest runs it may write to a page between the moment its checksum is taken and
the moment its bytes leave. So batches of a running guest go through a buffer of their own,
which stays in the processor's cache; those of a guest that stands go out of guest RAM
itself. What the guest writes after the copy is in the dirty log.
"""

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from tagalong import wire
from tagalong.errors import HostError
from tagalong.machine import Machine
from tagalong.memory import Gpa, PageBitmap, Region
from tagalong.migrate.digest import Tick
from tagalong.migrate.link import Link
from tagalong.mte import PACKED_RATIO
from tagalong.mte.tags import zero_rows

BATCH_BYTES = 1 << 20

# A record costs about as much time as sending this many pages: shorter stretches of zero
# pages are sent as bytes.
_ZERO_PAGES_WORTH_A_RECORD = 8

# Headers and head of a PAGES record: what is neither data nor tags.
_OVERHEAD_BYTES = 40


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
        self._drop_tags = drop_tags
        self._has_tags = machine.description.mte_version != 0
        self._buffer = np.empty(BATCH_BYTES, np.uint8)

    def send(self, pages: Sequence[PageBitmap], tick: Tick, *, tally: Tally, is_live: bool) -> None:
        """Send the pages of each region and add them to `tally`.

        `tick` is called before each batch. `is_live`: the guest may write meanwhile. Raises
        what `Link.send` raises and what `tick` does, HostError if RAM cannot be read.
        """
        for region, bitmap in zip(self._machine.memory.regions, pages, strict=True):
            for offset, size_bytes in _batches(region, bitmap):
                tick()
                began = time.monotonic()
                data = self._data(region, offset, size_bytes, is_live=is_live)
                tags = self._tags(region, offset, size_bytes)
                if self._send_batch(region, offset, data, tags, tally):
                    tally.busy_s += time.monotonic() - began

    # Which plane is read first does not matter: the guest's change of either in between
    # marks the page dirty, and both are sent again.

    def _data(
        self, region: Region, offset: int, size_bytes: int, *, is_live: bool
    ) -> NDArray[np.uint8]:
        if not is_live:
            return region.data[offset : offset + size_bytes]
        batch = self._buffer[:size_bytes]
        done = 0
        while done < size_bytes:
            try:
                done += os.preadv(region.data_fd, [batch[done:].data], offset + done)
            except OSError as error:
                raise HostError(
                    f"cannot read RAM at gpa {region.gpa + offset:#x}: {error}"
                ) from error
        return batch

    def _tags(self, region: Region, offset: int, size_bytes: int) -> NDArray[np.uint8] | None:
        if not self._has_tags or self._drop_tags:
            return None
        return self._machine.read_tags(Gpa(region.gpa + offset), size_bytes)

    def _send_batch(
        self,
        region: Region,
        offset: int,
        data: NDArray[np.uint8],
        tags: NDArray[np.uint8] | None,
        tally: Tally,
    ) -> int:
        """Send a batch in as many records as its zero pages ask for; return its wire bytes."""
        before = tally.wire_bytes
        no_tags = wire.NoBytes.ZERO if self._has_tags else wire.NoBytes.ABSENT
        page = region.page_size_bytes
        for first, stop, is_zero in _stretches(zero_rows(data, page)):
            start, end = first * page, stop * page
            record = wire.Pages(
                first_gpa=region.gpa + offset + start,
                page_count=stop - first,
                data=wire.NoBytes.ZERO if is_zero else data[start:end].data,
                tags=no_tags if tags is None else _packed(tags, start, end),
            )
            data_bytes = 0 if is_zero else end - start
            sent = self._link.send(record)
            tally.pages += record.page_count
            tally.data_bytes_wire += data_bytes
            tally.tag_bytes_wire += sent - _OVERHEAD_BYTES - data_bytes
        return tally.wire_bytes - before


def _packed(tags: NDArray[np.uint8], start: int, end: int) -> memoryview:
    return tags[start // PACKED_RATIO : end // PACKED_RATIO].data


def _batches(region: Region, bitmap: PageBitmap) -> Iterator[tuple[int, int]]:
    """Yield offset and size in bytes of the batches of a region's pages."""
    page = region.page_size_bytes
    for first, count in bitmap.runs().tolist():
        end = (first + count) * page
        for offset in range(first * page, end, BATCH_BYTES):
            yield offset, min(BATCH_BYTES, end - offset)


def _stretches(is_zero: NDArray[np.bool_]) -> Iterator[tuple[int, int, bool]]:
    """Yield [first, stop) of the pages of a batch that go into one record, and whether as zero."""
    if not is_zero.any() or is_zero.all():
        yield 0, is_zero.size, bool(is_zero[0])
        return
    edges = np.flatnonzero(np.diff(is_zero)) + 1
    bounds = [0, *edges.tolist(), is_zero.size]
    raw_from = 0
    for first, stop in pairwise(bounds):
        if is_zero[first] and stop - first >= _ZERO_PAGES_WORTH_A_RECORD:
            if raw_from < first:
                yield raw_from, first, False
            yield first, stop, True
            raw_from = stop
    if raw_from < is_zero.size:
        yield raw_from, is_zero.size, False
