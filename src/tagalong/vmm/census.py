"""Counts the granules of a source that carry a tag: a machine, or a core."""

from collections.abc import Iterator

from tagalong.machine import PageSource
from tagalong.mte import GRANULE_BYTES
from tagalong.mte.tags import count_tagged
from tagalong.qapi.census import TagCensus

# Tags are counted in pieces, so that a large machine costs little memory: 2 MiB of tags.
_PIECE_PAGES = 1 << 14


def take_census(source: PageSource) -> TagCensus:
    """Count the granules of `source`; exact while its guest does not run. Touches no hole.

    Raises what the source's `tags` raises.
    """
    tagged = sum(
        count_tagged(source.tags(number, first, count))
        for number, first, count in _populated_pieces(source)
    )
    return TagCensus(source.memory.size_bytes // GRANULE_BYTES, tagged)


def _populated_pieces(source: PageSource) -> Iterator[tuple[int, int, int]]:
    """Yield what may hold tags: number of the range, first page, number of pages."""
    for number, pages in enumerate(source.populated_pages()):
        runs = pages.runs().tolist() if source.memory.ranges[number].has_tags else []
        for start, count in runs:
            for first in range(start, start + count, _PIECE_PAGES):
                yield number, first, min(_PIECE_PAGES, start + count - first)
