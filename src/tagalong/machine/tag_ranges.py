"""Tags of ranges that begin or end inside a page, by ways that copy those of whole pages only.

KVM_ARM_MTE_COPY_TAGS takes whole pages, and so do the access strategies. A packed byte holds the
tags of 32 bytes, so that is the unit which a caller may ask for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tagalong._lazy import module_when_used
from tagalong.errors import UsageError
from tagalong.memory.address import Gpa, check_range
from tagalong.mte import PACKED_RATIO

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
else:
    np = module_when_used("numpy")

ReadPages = Callable[[Gpa, int], "NDArray[np.uint8]"]
WritePages = Callable[[Gpa, "NDArray[np.uint8]"], None]


def is_whole_pages(gpa: int, length_bytes: int, page_bytes: int) -> bool:
    """Return whether a range begins and ends with a page."""
    return not (gpa | length_bytes) % page_bytes


def read_tag_range(
    read_pages: ReadPages, gpa: int, length_bytes: int, page_bytes: int
) -> NDArray[np.uint8]:
    """Return the packed tags of a range, a copy of shape (length_bytes / 32,).

    Raises AddressError if `gpa` or `length_bytes` is no multiple of 32, and what `read_pages`
    raises.
    """
    check_range(gpa, length_bytes, PACKED_RATIO)
    start, stop = _pages_around(gpa, length_bytes, page_bytes)
    packed = read_pages(Gpa(start), stop - start)
    if packed.size * PACKED_RATIO == length_bytes:
        return packed
    first = (gpa - start) // PACKED_RATIO
    return packed[first : first + length_bytes // PACKED_RATIO].copy()


def write_tag_range(
    read_pages: ReadPages,
    write_pages: WritePages,
    gpa: int,
    packed: NDArray[np.uint8],
    page_bytes: int,
) -> None:
    """Set the packed tags from `gpa` on; the tags of the pages around stay as they are.

    Where the range begins or ends inside a page, that page's tags are read and written back:
    the caller sees to it that no vCPU changes them meanwhile. Raises AddressError if `gpa` is
    no multiple of 32, UsageError unless `packed` is one row of uint8, and what the functions
    raise; no tag has changed then unless `write_pages` changed it.
    """
    if packed.dtype != np.uint8 or packed.ndim != 1:
        raise UsageError(
            f"packed tags must be one row of uint8, not {packed.dtype} of shape {packed.shape}"
        )
    length_bytes = packed.size * PACKED_RATIO
    check_range(gpa, length_bytes, PACKED_RATIO)
    if is_whole_pages(gpa, length_bytes, page_bytes):
        write_pages(Gpa(gpa), packed)
        return
    start, stop = _pages_around(gpa, length_bytes, page_bytes)
    around = read_pages(Gpa(start), stop - start)
    first = (gpa - start) // PACKED_RATIO
    around[first : first + packed.size] = packed
    write_pages(Gpa(start), around)


def _pages_around(gpa: int, length_bytes: int, page_bytes: int) -> tuple[int, int]:
    return gpa // page_bytes * page_bytes, -(-(gpa + length_bytes) // page_bytes) * page_bytes
