"""Guest RAM: regions with a data plane and a tag plane, addressed by gpa, and page bitmaps.

The planes are shared memory (memfds) or private memory, which may begin as the content of a
file. Both are sparse until touched, so that a page that neither guest nor host ever used
costs nothing and is recognised without being read.
"""

from typing import TYPE_CHECKING

from tagalong._lazy import names_of

if TYPE_CHECKING:
    from tagalong.memory.address import Gpa
    from tagalong.memory.bitmap import PageBitmap, page_index, page_runs, run_pages
    from tagalong.memory.guest_memory import GuestMemory
    from tagalong.memory.plane import AnyPlane, Plane
    from tagalong.memory.private import FileRange, PrivatePlane, RegionSource
    from tagalong.memory.region import DataRoute, Region
    from tagalong.memory.rows import check_tag_rows, tag_rows
    from tagalong.memory.stores import HostStores
else:
    __getattr__, __dir__ = names_of(
        __name__,
        {
            "tagalong.memory.address": ("Gpa",),
            "tagalong.memory.bitmap": ("PageBitmap", "page_index", "page_runs", "run_pages"),
            "tagalong.memory.guest_memory": ("GuestMemory",),
            "tagalong.memory.plane": ("AnyPlane", "Plane"),
            "tagalong.memory.private": ("FileRange", "PrivatePlane", "RegionSource"),
            "tagalong.memory.region": ("DataRoute", "Region"),
            "tagalong.memory.rows": ("check_tag_rows", "tag_rows"),
            "tagalong.memory.stores": ("HostStores",),
        },
    )

__all__ = [
    "AnyPlane",
    "DataRoute",
    "FileRange",
    "Gpa",
    "GuestMemory",
    "HostStores",
    "PageBitmap",
    "Plane",
    "PrivatePlane",
    "Region",
    "RegionSource",
    "check_tag_rows",
    "page_index",
    "page_runs",
    "run_pages",
    "tag_rows",
]
