"""The control: plain accesses through the mapping with PROT_MTE, as if there were no tags."""

from typing import ClassVar

from tagalong.access import Need
from tagalong.access.strategy import Hazard, Mapped
from tagalong.studies.comparison.report import CONTROL


class Plain(Mapped):
    """What the strategies avoid: it takes tag check faults wherever checking is on."""

    name: ClassVar[str] = CONTROL
    summary: ClassVar[str] = "plain accesses through a mapping with PROT_MTE: the control"
    needs: ClassVar = frozenset({Need.ARM64, Need.MTE, Need.PROT_MTE})
    hazards: ClassVar = frozenset(
        {Hazard.RACES_WITH_GUEST, Hazard.NOT_FOR_SYSCALLS, Hazard.POPULATES_MEMORY}
    )
