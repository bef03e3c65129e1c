"""Pages that a destination has placed, as flags and as HELD records of a resumed migration."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from tagalong import wire
from tagalong.memory import PageBitmap, Region
from tagalong.wire.limits import MAX_HELD_PAGES


def records_of_held(
    regions: Sequence[Region], placed: Sequence[NDArray[np.bool_]]
) -> Iterator[wire.Held]:
    """Yield the records that name the pages whose flag is set, for regions in order."""
    for region, flags in zip(regions, placed, strict=True):
        page = region.page_size_bytes
        for first in range(0, region.page_count, MAX_HELD_PAGES):
            part = flags[first : first + MAX_HELD_PAGES]
            if part.any():
                bits = np.packbits(part, bitorder="little").tobytes()
                yield wire.Held(region.gpa + first * page, part.size, bits)


def add_held(bitmaps: Sequence[PageBitmap], regions: Sequence[Region], held: wire.Held) -> None:
    """Add the pages that a record names, which is sound, to the bitmaps of the regions."""
    starts = [region.gpa for region in regions]
    number = int(np.searchsorted(starts, held.first_gpa, "right")) - 1
    first = (held.first_gpa - starts[number]) // regions[number].page_size_bytes
    bits = np.unpackbits(np.frombuffer(held.bits, np.uint8), bitorder="little")
    bitmaps[number].add_flags(first, bits[: held.page_count].astype(np.bool_))
