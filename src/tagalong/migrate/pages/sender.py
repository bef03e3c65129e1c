"""Sends pages over one channel: gathers them into batches, and leaves out what need not be sent.

Pages that are all zero are sent as such. Of pages whose data are those that were sent last, only
the tags are sent. All other data leave guest RAM for the socket without a copy in between, if the
guest is paused. A running guest may write to a page between the moment that its digest is taken and
the moment that its bytes leave, and what is sent must be what was hashed: so these pages pass
through a buffer of 256 KiB, which stays in the processor's cache. What the guest writes after that
is in the dirty log. RAM that an access strategy reads is always copied, by that strategy: no
pointer into it leaves `Region`.

Each sender has its buffers from the first batch to the last. With several busy threads a page fault
takes ten times as long as alone, and faults on new buffers were a tenth of a migration's processor
time. So tags are read into the same memory again and again (`Machine.read_page_tags(out=)`).
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tagalong import wire
from tagalong.machine import Machine
from tagalong.memory import PageBitmap, Region, page_index, page_runs
from tagalong.memory.zeros import dense_zeros, sparse_zeros
from tagalong.migrate.link import Link
from tagalong.migrate.pages.compression import Compression
from tagalong.migrate.pages.compressor import Compressor
from tagalong.migrate.pages.pump import STAGE_BYTES, Segments, segments_of
from tagalong.mte import PACKED_RATIO
from tagalong.mte.tags import zero_rows
from tagalong.wire.integrity import page_digests
from tagalong.wire.limits import (
    MAX_BATCH_BYTES,
    MAX_BATCH_TAG_BYTES,
    MAX_COPIED_BYTES,
    MAX_RUNS,
)

# Data that are copied are copied in portions of this size.
COPIED_BYTES = 4 << 20

_PLAIN = Compression()

# Page numbers are unpacked from this many words of a bitmap at a time.
_WINDOW_WORDS = 1024
_WORD_BITS = 64

Pages = NDArray[np.int64]


@dataclass
class Tally:
    """What was sent; `busy_s` is the time spent on batches that took bytes on the wire.

    `tags_only_pages` are those whose data did not change; `left_out_pages` are not sent, because
    the destination has them as they are. `tags_s` is the time that reading tags out of the machine
    took.
    """

    pages: int = 0
    left_out_pages: int = 0
    tags_only_pages: int = 0
    data_bytes_wire: int = 0
    tag_bytes_wire: int = 0
    busy_s: float = 0.0
    tags_s: float = 0.0

    @property
    def done_pages(self) -> int:
        """Return how many pages need not be sent any more."""
        return self.pages + self.left_out_pages

    @property
    def wire_bytes(self) -> int:
        """Return the bytes of both planes on the wire."""
        return self.data_bytes_wire + self.tag_bytes_wire

    def add(self, other: "Tally") -> None:
        """Add what another channel has sent at the same time."""
        self.pages += other.pages
        self.left_out_pages += other.left_out_pages
        self.tags_only_pages += other.tags_only_pages
        self.data_bytes_wire += other.data_bytes_wire
        self.tag_bytes_wire += other.tag_bytes_wire
        self.busy_s = max(self.busy_s, other.busy_s)
        self.tags_s = max(self.tags_s, other.tags_s)

    def add_later(self, other: "Tally") -> None:
        """Add what was sent after this."""
        busy_s, tags_s = self.busy_s + other.busy_s, self.tags_s + other.tags_s
        self.add(other)
        self.busy_s, self.tags_s = busy_s, tags_s


class SentData:
    """The digest of the data last sent of each page; 0 if there is none, or it is not known.

    Eight bytes per page that was sent. Channels may use it at the same time for different pages.
    The digests are those of the seal, so they cost no extra pass over memory, and comparing them
    later shows pages of which only the tags have changed.
    """

    def __init__(self, machine: Machine) -> None:
        regions = machine.memory.regions
        self.digests = [sparse_zeros(region.page_count, np.uint64) for region in regions]

    def prepare(self, pages: Sequence[PageBitmap]) -> None:
        """Make room for these pages of each region, the first that will be sent.

        A region of which most pages are used gets dense memory, in huge pages. Else only the parts
        that are written take any: a large guest that has used little would cost 2 MiB per stretch.
        """
        for number, bitmap in enumerate(pages):
            if bitmap.count() > bitmap.page_count // 2:
                self.digests[number] = dense_zeros(bitmap.page_count, np.uint64)

    def forget(self, pages: Sequence[PageBitmap]) -> None:
        """Forget these pages of each region: what has arrived of them is not known."""
        for digests, bitmap in zip(self.digests, pages, strict=True):
            digests[bitmap.pages()] = 0


class PageSender:
    """Sends pages of `machine` over `link`; belongs to one thread at a time.

    With `drop_tags` all tags are sent as zero: the control experiment, which shows what is
    lost without them.
    """

    def __init__(
        self,
        machine: Machine,
        link: Link,
        sent: SentData,
        *,
        drop_tags: bool = False,
        compression: Compression = _PLAIN,
    ) -> None:
        self._machine = machine
        self._link = link
        self._sent = sent
        self._has_tags = machine.description.mte_version != 0
        self._sends_tags = self._has_tags and not drop_tags
        self._compressor = Compressor(compression)
        self._page_bytes = machine.description.page_size_bytes
        self._buffer = dense_zeros(COPIED_BYTES, np.uint8)
        self._stage = dense_zeros(STAGE_BYTES, np.uint8)
        self._tags = dense_zeros(MAX_BATCH_TAG_BYTES, np.uint8)

    def send(self, region: int, numbers: Pages, tally: Tally) -> None:
        """Send one batch, pages by number in ascending order, and add it to `tally`.

        Raises what `Link.send` raises, HostError if RAM cannot be read. While a batch of a paused
        guest leaves, a resume of that guest waits.
        """
        began = time.monotonic()
        wire_bytes = tally.wire_bytes
        # Which plane is read first does not matter: a change of either in between marks the page
        # dirty, and both are sent again.
        tags = self._read_tags(region, numbers) if self._sends_tags else None
        tally.tags_s += time.monotonic() - began
        batch = _Batch(region, self._machine.memory.regions[region], numbers, tags)
        if self._may_stream(batch) and batch.is_new(self._sent):
            self._send_new(batch, tally)
        else:
            for part in batch.parts(COPIED_BYTES):
                with self._machine.hold_if_paused() as is_paused:
                    self._send_looked_at(part, self._still(part, is_paused=is_paused), tally)
        if tally.wire_bytes > wire_bytes:
            tally.busy_s += time.monotonic() - began

    def _read_tags(self, region: int, numbers: Pages) -> NDArray[np.uint8]:
        row_bytes = self._page_bytes // PACKED_RATIO
        rows = self._tags[: numbers.size * row_bytes].reshape(-1, row_bytes)
        return self._machine.read_page_tags(region, numbers, rows)

    def _may_stream(self, batch: "_Batch") -> bool:
        is_plain = self._link.streams_pages and not self._compressor.is_on
        return is_plain and not batch.ram.is_routed

    def _send_new(self, batch: "_Batch", tally: Tally) -> None:
        """Send pages that were never sent, straight from guest RAM; zero pages without data."""
        is_zero = self._zero_pages(batch)
        if is_zero.any():
            self._send_without_data(batch.only(is_zero), tally, wire.NoBytes.ZERO)
            batch = batch.only(~is_zero)
        if batch.numbers.size:
            with self._machine.hold_if_paused() as is_paused:
                for part in batch.sound_parts(MAX_COPIED_BYTES):
                    self._stream(part, tally, None if is_paused else self._stage)

    def _stream(self, batch: "_Batch", tally: Tally, stage: NDArray[np.uint8] | None) -> None:
        with self._counting(batch, tally):
            self._sent.digests[batch.region][batch.index] = self._link.stream_pages(
                batch.runs(), self._plane(batch.tags), batch.segments(), stage
            )

    def _zero_pages(self, batch: "_Batch") -> NDArray[np.bool_]:
        """Return which pages are zero. Fills no hole."""
        page, data = self._page_bytes, batch.in_place()
        if data is not None:
            return zero_rows(data, page)
        parts = [zero_rows(self._copy(part), page) for part in batch.parts(COPIED_BYTES)]
        return np.concatenate(parts)

    def _still(self, batch: "_Batch", *, is_paused: bool) -> NDArray[np.uint8]:
        """Return data that do not change: guest RAM itself where that is possible, or a copy."""
        data = batch.in_place() if is_paused and not batch.ram.is_routed else None
        return self._copy(batch) if data is None else data

    def _send_looked_at(self, batch: "_Batch", data: NDArray[np.uint8], tally: Tally) -> None:
        """Send pages; of those with the data that were last sent only the tags."""
        is_zero = zero_rows(data, self._page_bytes)
        digests = page_digests((data.data,), self._page_bytes)
        sent = self._sent.digests[batch.region]
        is_unchanged = ~is_zero & (digests == sent[batch.index])
        tally.tags_only_pages += int(is_unchanged.sum())
        self._send_without_data(batch.only(is_zero), tally, wire.NoBytes.ZERO)
        self._send_without_data(batch.only(is_unchanged), tally, wire.NoBytes.KEPT)
        sent[batch.numbers[is_zero]] = 0
        rest = ~(is_zero | is_unchanged)
        if rest.any():
            if not rest.all():
                data = data.reshape(-1, self._page_bytes)[rest].reshape(-1)
            batch = batch.only(rest)
            self._send_data(batch, data, digests[rest], tally)
            sent[batch.index] = digests[rest]

    def _send_data(
        self, batch: "_Batch", data: NDArray[np.uint8], digests: NDArray[np.uint64], tally: Tally
    ) -> None:
        began = time.monotonic()
        level = self._compressor.level(data)
        runs, tags = batch.runs(), self._plane(batch.tags)
        with self._counting(batch, tally):
            if level is None:
                self._link.send_pages(runs, tags, data.data, digests)
            else:
                self._link.send(wire.Pages(runs, (data.data,), tags, level))
        self._compressor.note_batch(
            data.size, time.monotonic() - began, compressed=level is not None
        )

    def _send_without_data(self, batch: "_Batch", tally: Tally, data: wire.NoBytes) -> None:
        for part in batch.sound_parts() if batch.numbers.size else ():
            with self._counting(part, tally):
                self._link.send(wire.Pages(part.runs(), data, self._plane(part.tags)))

    def _copy(self, batch: "_Batch") -> NDArray[np.uint8]:
        copy = self._buffer[: batch.numbers.size * self._page_bytes]
        # Reads by the descriptor and not through the mapping, which would fill holes.
        batch.ram.read_pages_into(copy, batch.numbers)
        return copy

    def _plane(self, tags: NDArray[np.uint8] | None) -> memoryview | wire.NoBytes:
        if tags is None:
            return wire.NoBytes.ZERO if self._has_tags else wire.NoBytes.ABSENT
        return tags.reshape(-1).data

    @contextlib.contextmanager
    def _counting(self, batch: "_Batch", tally: Tally) -> Iterator[None]:
        """Add to `tally` what is sent of this batch in a `with` block."""
        before, data_before = self._link.bytes_sent, self._link.data_bytes_sent
        yield
        data_bytes = self._link.data_bytes_sent - data_before
        overhead = wire.pages_overhead_bytes(len(batch.ranges))
        tally.pages += batch.numbers.size
        tally.data_bytes_wire += data_bytes
        tally.tag_bytes_wire += self._link.bytes_sent - before - data_bytes - overhead


class TagSender(PageSender):
    """Sends the tags of pages whose data another VMM's own migration carries.

    Most pages of a log are there for their data. So the digests of `sent` are those of tags here,
    and pages whose tags are those that were sent last are left out.
    """

    def send(self, region: int, numbers: Pages, tally: Tally) -> None:
        """As PageSender.send, without the pages' data."""
        began = time.monotonic()
        tags = self._read_tags(region, numbers) if self._sends_tags else None
        tally.tags_s += time.monotonic() - began
        batch = _Batch(region, self._machine.memory.regions[region], numbers, tags)
        if tags is not None:
            batch = self._only_changed(batch, tags)
        tally.left_out_pages += numbers.size - batch.numbers.size
        tally.tags_only_pages += batch.numbers.size
        self._send_without_data(batch, tally, wire.NoBytes.KEPT)
        tally.busy_s += time.monotonic() - began

    def _only_changed(self, batch: "_Batch", tags: NDArray[np.uint8]) -> "_Batch":
        """Return the pages whose tags are not those that were sent last, and note these."""
        digests = page_digests((tags.reshape(-1).data,), tags.shape[1])
        sent = self._sent.digests[batch.region]
        is_changed = digests != sent[batch.index]
        sent[batch.index] = digests
        return batch if is_changed.all() else batch.only(is_changed)


class _Batch:
    """Pages of one region, with their tags if those are sent."""

    def __init__(
        self, region: int, ram: Region, numbers: Pages, tags: NDArray[np.uint8] | None
    ) -> None:
        self.region = region
        self.ram = ram
        self.numbers = numbers
        self.tags = tags

    def only(self, chosen: NDArray[np.bool_]) -> "_Batch":
        """Return the batch of some of the pages."""
        tags = None if self.tags is None else self.tags[chosen]
        return _Batch(self.region, self.ram, self.numbers[chosen], tags)

    def is_new(self, sent: SentData) -> bool:
        """Return whether none of the pages was sent before."""
        return not sent.digests[self.region][self.index].any()

    def parts(self, most_bytes: int) -> "Iterator[_Batch]":
        """Yield batches of the pages in order, each of at most `most_bytes` of data."""
        most = most_bytes // self.ram.page_size_bytes
        for at in range(0, self.numbers.size, most):
            tags = None if self.tags is None else self.tags[at : at + most]
            yield _Batch(self.region, self.ram, self.numbers[at : at + most], tags)

    def sound_parts(self, most_bytes: int = MAX_BATCH_BYTES) -> "Iterator[_Batch]":
        """Yield batches that one record can hold.

        A record has at most MAX_RUNS runs, and if it has several, at most `most_bytes` of data: a
        receiver may have to hold those before it can place them.
        """
        page = self.ram.page_size_bytes
        if len(self.ranges) > MAX_RUNS:
            yield from self.parts(min(MAX_RUNS * page, most_bytes))
        elif len(self.ranges) > 1 and self.numbers.size * page > most_bytes:
            yield from self.parts(most_bytes)
        else:
            yield self

    @cached_property
    def index(self) -> slice | Pages:
        """Return what selects the pages from an array with one entry per page of the region."""
        return page_index(self.numbers)

    def in_place(self) -> NDArray[np.uint8] | None:
        """Return the data where they are in guest RAM, None if they are not one run without holes.

        Only of RAM that is not routed.
        """
        at, page = self.index, self.ram.page_size_bytes
        if not isinstance(at, slice) or not self.ram.has_known_data(at.start, self.numbers.size):
            return None
        return self.ram.data[at.start * page : at.stop * page]

    @cached_property
    def ranges(self) -> NDArray[np.int64]:
        """Return the runs: shape (runs, 2), first page and number of pages."""
        return page_runs(self.numbers)

    def runs(self) -> wire.Runs:
        """Return the runs in the form of a record."""
        runs = self.ram.gpa_runs(self.ranges)
        runs[:, 1] = self.ranges[:, 1]  # a record counts pages
        return wire.Runs(runs.view(np.uint64))

    def segments(self) -> Segments:
        """Return where the data lie."""
        return segments_of(self.ram, self.ranges)


def batches(bitmap: PageBitmap, most: Callable[[], int]) -> Iterator[Pages]:
    """Yield the numbers of a bitmap's pages in order, at most `most()` at a time."""
    starts = np.arange(0, bitmap.words.size, _WINDOW_WORDS)
    has_pages = np.logical_or.reduceat(bitmap.words != 0, starts) if starts.size else starts
    for start in starts[has_pages].tolist():
        first = start * _WORD_BITS
        count = min(_WINDOW_WORDS * _WORD_BITS, bitmap.page_count - first)
        window = PageBitmap(count, bitmap.words[start : start + _WINDOW_WORDS])
        numbers = window.pages() + first
        while numbers.size:
            count = most()
            yield numbers[:count]
            numbers = numbers[count:]
