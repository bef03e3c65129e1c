"""Guest RAM: regions with a data plane and a tag plane, addressed by gpa, and page bitmaps.

The planes are shared memory (memfds), sparse until touched, so that a page that neither
guest nor host ever used costs nothing and is recognised without being read.
"""

from tagalong.memory.address import Gpa
from tagalong.memory.bitmap import PageBitmap, page_runs
from tagalong.memory.guest_memory import GuestMemory
from tagalong.memory.plane import Plane
from tagalong.memory.region import Region

__all__ = ["Gpa", "GuestMemory", "PageBitmap", "Plane", "Region", "page_runs"]
