"""One bit per page, in the layout of KVM's dirty log.

KVM_GET_DIRTY_LOG (Linux, Documentation/virt/kvm/api.rst 4.8) returns a bitmap of
little-endian 64-bit words in which bit n is page n of the memory slot, padded with zero
bits to a whole word. All work here is done on words, so that the bitmap of 64 GiB of RAM
(2 MiB) is handled in milliseconds whatever it holds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

from tagalong._lazy import module_when_used
from tagalong.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy as np
    from numpy.typing import NDArray
else:
    np = module_when_used("numpy")

WORD_BITS = 64
_ALL = (1 << WORD_BITS) - 1


def page_index(pages: NDArray[np.int64]) -> slice | NDArray[np.int64]:
    """Return what picks `pages`, ascending numbers, from an array with an entry for each page.

    That is a slice where they follow each other: numpy then copies or sets one stretch.

    >>> page_index(np.array([4, 5, 6])), page_index(np.array([4, 6])).tolist()
    (slice(4, 7, None), [4, 6])
    """
    if not pages.size:
        return slice(0, 0)
    first, last = int(pages[0]), int(pages[-1])
    return slice(first, last + 1) if last - first + 1 == pages.size else pages


def page_runs(pages: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the runs of ascending page numbers, shape (runs, 2): first page, number of pages.

    >>> page_runs(np.array([1, 2, 3, 70])).tolist()
    [[1, 3], [70, 1]]
    """
    if isinstance(stretch := page_index(pages), slice):
        return np.array([[stretch.start, pages.size]], np.int64)[: pages.size]
    breaks = np.flatnonzero(np.diff(pages) != 1)
    firsts = np.append(pages[:1], pages[breaks + 1])
    lasts = np.append(pages[breaks], pages[-1:])
    return np.stack((firsts, lasts - firsts + 1), axis=1)


def run_pages(runs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the page numbers of runs: the inverse of `page_runs`.

    >>> run_pages(np.array([[1, 3], [70, 1]])).tolist()
    [1, 2, 3, 70]
    """
    if len(runs) == 1:
        return np.arange(runs[0, 0], runs[0].sum())
    first, count = runs.T
    numbers: NDArray[np.int64] = np.arange(count.sum()) + np.repeat(
        first - np.cumsum(count) + count, count
    )
    return numbers


def flag_runs(flags: NDArray[np.bool_], first: int = 0) -> list[list[int]]:
    """Return [start, stop) of the runs of flags that are set; the first flag's number is `first`.

    >>> flag_runs(np.array([False, True, True, False, True]))
    [[1, 3], [4, 5]]
    """
    # A flag that is not set at either end, so that each run has two edges.
    fenced = np.zeros(flags.size + 2, np.bool_)
    fenced[1:-1] = flags
    edges = np.flatnonzero(fenced[1:] != fenced[:-1])
    pairs: list[list[int]] = (first + edges.reshape(-1, 2)).tolist()
    return pairs


class PageBitmap:
    """A set of pages of one region; mutable, and not hashable for that reason.

    `page_count`: pages of the region, 0 or more. `words`: shape (ceil(page_count / 64),),
    uint64, C-contiguous, used and not copied, so that the bitmap is a view of a dirty log
    that others fill; by default all zero. Raises UsageError if `words` is of another form
    or has a bit set beyond the last page.

    >>> bitmap = PageBitmap.from_pages(100, [1, 2, 3, 70])
    >>> bitmap.runs().tolist(), 70 in bitmap
    ([[1, 3], [70, 1]], True)
    """

    __hash__: ClassVar[None]  # type: ignore[assignment]

    def __init__(self, page_count: int, words: NDArray[np.uint64] | None = None) -> None:
        if page_count < 0:
            raise UsageError(f"a bitmap of {page_count} pages is not possible")
        word_count = -(-page_count // WORD_BITS)
        if words is None:
            words = np.zeros(word_count, np.uint64)
        _check_words(words, word_count)
        used = page_count % WORD_BITS
        if used and int(words[-1]) >> used:
            raise UsageError(
                f"bitmap word {int(words[-1]):#018x} has bits set beyond page {page_count - 1:#x}"
            )
        self.page_count = page_count
        self.words = words

    @classmethod
    def from_pages(cls, page_count: int, pages: NDArray[np.int64] | Sequence[int]) -> Self:
        """Return the bitmap with these page numbers set, in any order, repeats allowed.

        Raises UsageError for a page that is not 0 to page_count - 1.

        >>> PageBitmap.from_pages(100, [64, 0]).words.tolist()
        [1, 1]
        """
        bitmap = cls(page_count)
        numbers = np.asarray(pages, np.int64)
        if numbers.size:
            bitmap._check_range(int(numbers.min()), 1)
            bitmap._check_range(int(numbers.max()), 1)
        flags = np.zeros(page_count, np.bool_)
        flags[numbers] = True
        bitmap.add_flags(0, flags)
        return bitmap

    @classmethod
    def from_flags(cls, flags: NDArray[np.bool_]) -> Self:
        """Return the bitmap of flags.size pages in which page n is set if flags[n] is.

        >>> PageBitmap.from_flags(np.array([False, True, True])).words.tolist()
        [6]
        """
        bitmap = cls(flags.size)
        bitmap.add_flags(0, flags)
        return bitmap

    @classmethod
    def from_extents(
        cls, page_count: int, extents: Iterable[tuple[int, int]], page_bytes: int
    ) -> Self:
        """Return the bitmap of the pages that extents, [start, stop) in bytes, touch.

        `page_bytes`: what a page takes of the plane that the extents are of. Raises UsageError
        for an extent that reaches beyond the last page.

        >>> PageBitmap.from_extents(100, [(0x0, 0x1800), (0x9000, 0xA000)], 0x1000).runs().tolist()
        [[0, 2], [9, 1]]
        """
        bounds = np.array([*extents], np.int64).reshape(-1, 2)
        first, stop = bounds[:, 0] // page_bytes, -(-bounds[:, 1] // page_bytes)
        bitmap = cls(page_count)
        bitmap.set_runs(np.stack((first, stop - first), axis=1))
        return bitmap

    def count(self) -> int:
        """Return the number of pages that are set."""
        # Most words have no bit: of a large guest they would take all the time.
        return int.from_bytes(self.words[self.words != 0].tobytes(), "little").bit_count()

    def pages(self) -> NDArray[np.int64]:
        """Return the numbers of the pages that are set, in order, as a new array."""
        return _bit_numbers(self.words)

    def flags(self) -> NDArray[np.bool_]:
        """Return one flag per page, as a new array; the inverse of `from_flags`."""
        bits = np.unpackbits(self.words.view(np.uint8), bitorder="little")
        return bits[: self.page_count].view(np.bool_)

    def runs(self) -> NDArray[np.int64]:
        """Return the runs of pages that are set, in order and with a gap between any two.

        A new array of shape (runs, 2): first page, number of pages.
        """
        # An edge is a bit that differs from the bit below it: the first page of a run, and the
        # page behind its last. `below` is the whole bitmap moved up by one bit, with the top
        # bit of each word carried into the next, so one XOR of words finds all edges at once,
        # and the work depends on the number of runs and words, not of pages.
        below = self.words << np.uint64(1)
        below[1:] |= self.words[:-1] >> np.uint64(WORD_BITS - 1)
        edges = _bit_numbers(self.words ^ below)
        # A run up to the last bit of the last word has its second edge outside the bitmap.
        if edges.size % 2:
            edges = np.append(edges, self.page_count)
        runs = edges.reshape(-1, 2)
        runs[:, 1] -= runs[:, 0]
        return runs

    def set_range(self, first: int, count: int) -> None:
        """Set the pages [first, first + count).

        Raises UsageError if they are not all in the bitmap; nothing has changed then.
        """
        self._check_range(first, count)
        if count == 0:
            return
        last = first + count - 1
        head, tail = first // WORD_BITS, last // WORD_BITS
        from_first = _ALL << first % WORD_BITS & _ALL
        to_last = _ALL >> (WORD_BITS - 1 - last % WORD_BITS)
        if head == tail:
            self.words[head] |= np.uint64(from_first & to_last)
            return
        self.words[head] |= np.uint64(from_first)
        self.words[head + 1 : tail] = _ALL
        self.words[tail] |= np.uint64(to_last)

    def has_range(self, first: int, count: int) -> bool:
        """Return whether all of the pages [first, first + count) are set.

        Raises UsageError if they are not all in the bitmap.

        >>> PageBitmap.from_pages(70, [62, 63, 64]).has_range(62, 3)
        True
        """
        self._check_range(first, count)
        start = first // WORD_BITS
        words = self.words[start : -(-(first + count) // WORD_BITS)]
        bits = np.unpackbits(words.view(np.uint8), bitorder="little")
        at = first - start * WORD_BITS
        return bool(bits[at : at + count].all())

    def set_runs(self, runs: NDArray[np.int64]) -> None:
        """Set the pages of runs, shape (runs, 2): first page, number of pages; 0 or more each.

        As `set_range` for each, and faster for many short ones. Raises UsageError if a run is
        not wholly in the bitmap; nothing has changed then.

        >>> bitmap = PageBitmap(100)
        >>> bitmap.set_runs(np.array([[1, 3], [70, 1]]))
        >>> bitmap.pages().tolist()
        [1, 2, 3, 70]
        """
        if not len(runs):
            return
        self._check_range(int(runs[:, 0].min()), 0)
        self._check_range(0, int(runs.sum(axis=1).max()))
        is_long = runs[:, 1] >= WORD_BITS
        for first, count in runs[is_long].tolist():
            self.set_range(first, count)
        pages = run_pages(runs[~is_long])
        bits = np.uint64(1) << (pages % WORD_BITS).astype(np.uint64)
        np.bitwise_or.at(self.words, pages // WORD_BITS, bits)

    def add_flags(self, first: int, flags: NDArray[np.bool_]) -> None:
        """Set each page first + n for which flags[n] is set; the others stay as they are.

        Raises UsageError if flags reach beyond the last page; nothing has changed then.

        >>> bitmap = PageBitmap(100)
        >>> bitmap.add_flags(63, np.array([True, False, True]))
        >>> bitmap.pages().tolist()
        [63, 65]
        """
        self._check_range(first, flags.size)
        head, skipped = divmod(first, WORD_BITS)
        word_count = -(-(skipped + flags.size) // WORD_BITS)
        aligned = np.zeros(word_count * WORD_BITS, np.bool_)
        aligned[skipped : skipped + flags.size] = flags
        added = np.packbits(aligned, bitorder="little").view(np.uint64)
        self.words[head : head + word_count] |= added

    def in_pages_of(self, page_bytes: int, own_bytes: int) -> Self:
        """Return the pages of `page_bytes` that the pages of this bitmap, of `own_bytes`, touch.

        The bitmap itself if both are of one size.

        >>> PageBitmap.from_pages(8, [1, 6]).in_pages_of(0x4000, 0x1000).pages().tolist()
        [0, 1]
        >>> PageBitmap.from_pages(2, [1]).in_pages_of(0x1000, 0x4000).pages().tolist()
        [4, 5, 6, 7]
        """
        if page_bytes == own_bytes:
            return self
        extents = self.runs() * own_bytes
        extents[:, 1] += extents[:, 0]
        first, stop = extents[:, 0] // page_bytes, -(-extents[:, 1] // page_bytes)
        bitmap = type(self)(-(-self.page_count * own_bytes // page_bytes))
        bitmap.set_runs(np.stack((first, stop - first), axis=1))
        return bitmap

    def clear(self) -> None:
        """Unset every page, in place: `words` stays the same array."""
        self.words.fill(0)

    def copy(self) -> Self:
        """Return a bitmap with the same pages and words of its own."""
        return type(self)(self.page_count, self.words.copy())

    def __or__(self, other: PageBitmap) -> Self:
        self._check_same_size(other)
        return type(self)(self.page_count, self.words | other.words)

    def __and__(self, other: PageBitmap) -> Self:
        self._check_same_size(other)
        return type(self)(self.page_count, self.words & other.words)

    def __sub__(self, other: PageBitmap) -> Self:
        """Return the pages that only this bitmap has. Raises UsageError for other sizes."""
        self._check_same_size(other)
        return type(self)(self.page_count, self.words & ~other.words)

    def __contains__(self, page: int) -> bool:
        if not 0 <= page < self.page_count:
            return False
        return bool(int(self.words[page // WORD_BITS]) >> page % WORD_BITS & 1)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PageBitmap):
            return NotImplemented
        return self.page_count == other.page_count and np.array_equal(self.words, other.words)

    def __repr__(self) -> str:
        return f"<PageBitmap {self.count()} of {self.page_count} pages>"

    def _check_range(self, first: int, count: int) -> None:
        if first < 0 or count < 0 or first + count > self.page_count:
            raise UsageError(
                f"pages [{first:#x}, {first + count:#x}) are not in a bitmap of "
                f"{self.page_count:#x} pages"
            )

    def _check_same_size(self, other: PageBitmap) -> None:
        if self.page_count != other.page_count:
            raise UsageError(
                f"bitmaps of {self.page_count:#x} and {other.page_count:#x} pages "
                "cannot be combined"
            )


def _check_words(words: NDArray[np.uint64], word_count: int) -> None:
    form_is_right = words.dtype == np.uint64 and words.flags.c_contiguous
    if not form_is_right or words.shape != (word_count,):
        raise UsageError(
            f"bitmap words must be {word_count} contiguous uint64, not {words.dtype} of "
            f"shape {words.shape}"
        )


def _bit_numbers(words: NDArray[np.uint64]) -> NDArray[np.int64]:
    if words.size and words.min() == _ALL:  # the first round of a guest that is full
        return np.arange(words.size * WORD_BITS)
    # Only words with a bit are taken apart: bitmaps are mostly empty.
    places = np.flatnonzero(words != 0)
    bits = np.unpackbits(words[places].view(np.uint8), bitorder="little")
    place, bit = np.divmod(np.flatnonzero(bits), WORD_BITS)
    return (places[place] * WORD_BITS + bit).astype(np.int64)
