"""Strategy `alias`: two mappings of the memfd, one with PROT_MTE for tags, one without for data.

Both show the same memory; the attribute is the mapping's, and no access through the plain
one is checked.
"""

from typing import ClassVar

from tagalong.access.host import Need, View
from tagalong.access.strategy import Hazard, Mapped


class Alias(Mapped):
    """See the module."""

    name: ClassVar[str] = "alias"
    summary: ClassVar[str] = "two mappings: data without PROT_MTE, LDG and STG with it"
    needs: ClassVar = frozenset({Need.ARM64, Need.MTE, Need.SHARED_MEMORY, Need.PROT_MTE})
    hazards: ClassVar = frozenset({Hazard.POPULATES_MEMORY})
    view = View.PLAIN
