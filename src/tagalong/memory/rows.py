"""The packed tags of pages that are scattered: a row per page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tagalong._lazy import module_when_used
from tagalong.errors import UsageError
from tagalong.mte import PACKED_RATIO

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
else:
    np = module_when_used("numpy")


def tag_rows(
    page_count: int, page_size_bytes: int, out: NDArray[np.uint8] | None
) -> NDArray[np.uint8]:
    """Return memory for the packed tags of pages, a row per page: `out`, or new if it is None.

    Raises UsageError if `out` is not uint8, C-contiguous and of shape
    (page_count, page_size_bytes / 32).
    """
    shape = (page_count, page_size_bytes // PACKED_RATIO)
    if out is None:
        return np.empty(shape, np.uint8)
    if out.shape != shape or out.dtype != np.uint8 or not out.flags.c_contiguous:
        raise UsageError(
            f"tags of {page_count} pages need contiguous uint8 of shape {shape}, not {out.dtype} "
            f"of shape {out.shape}"
        )
    return out


def check_tag_rows(page_count: int, page_size_bytes: int, packed: NDArray[np.uint8]) -> None:
    """Raise UsageError unless `packed` has the tags of pages, a row of uint8 per page."""
    shape = (page_count, page_size_bytes // PACKED_RATIO)
    if packed.shape != shape or packed.dtype != np.uint8:
        raise UsageError(
            f"tags of {page_count} pages must be uint8 of shape {shape}, not {packed.dtype} of "
            f"shape {packed.shape}"
        )
