"""The ways for a VMM to touch tagged guest memory without tag check faults.

One file per strategy, all with one Protocol (`strategy`) and written for one kind of host
(`host`): this arm64 process, or the embedded machine's second CPU. `routines` names the A64 code
that does the work; `choice` picks the best by `names`; `accessor` copies guest RAM by one of them.
"""

from typing import TYPE_CHECKING

from tagalong._lazy import names_of

if TYPE_CHECKING:
    from tagalong.access.choice import STRATEGIES, Choice, choose, why_not
    from tagalong.access.host import (
        CallFlags,
        CallResult,
        CopyCall,
        Counts,
        Direction,
        Fault,
        Host,
        Need,
        View,
        tagged_addr_ctrl,
    )
    from tagalong.access.names import ACCESS_NAMES, AUTO
    from tagalong.access.outcome import Outcome
    from tagalong.access.routines import Routine
    from tagalong.access.strategy import Hazard, Strategy
else:
    __getattr__, __dir__ = names_of(
        __name__,
        {
            "tagalong.access.choice": (
                "STRATEGIES",
                "Choice",
                "choose",
                "why_not",
            ),
            "tagalong.access.host": (
                "CallFlags",
                "CallResult",
                "CopyCall",
                "Counts",
                "Direction",
                "Fault",
                "Host",
                "Need",
                "View",
                "tagged_addr_ctrl",
            ),
            "tagalong.access.names": ("ACCESS_NAMES", "AUTO"),
            "tagalong.access.outcome": ("Outcome",),
            "tagalong.access.routines": ("Routine",),
            "tagalong.access.strategy": ("Hazard", "Strategy"),
        },
    )

__all__ = [
    "ACCESS_NAMES",
    "AUTO",
    "STRATEGIES",
    "CallFlags",
    "CallResult",
    "Choice",
    "CopyCall",
    "Counts",
    "Direction",
    "Fault",
    "Hazard",
    "Host",
    "Need",
    "Outcome",
    "Routine",
    "Strategy",
    "View",
    "choose",
    "tagged_addr_ctrl",
    "why_not",
]
