"""The ways for a VMM to touch tagged guest memory without tag check faults.

One file for each strategy, all of them with one Protocol (`strategy`), written against what
a host gives (`host`): this arm64 process, or the embedded machine's second CPU. `routines`
names the A64 code that does the work; `choice` takes the best.
"""

from tagalong.access.choice import ACCESS_NAMES, AUTO, STRATEGIES, Choice, choose, why_not
from tagalong.access.host import (
    CallFlags,
    Counts,
    Direction,
    Door,
    Fault,
    Host,
    Need,
    Result,
    View,
    tagged_addr_ctrl,
)
from tagalong.access.outcome import Outcome
from tagalong.access.routines import Routine
from tagalong.access.strategy import Hazard, Strategy

__all__ = [
    "ACCESS_NAMES",
    "AUTO",
    "STRATEGIES",
    "CallFlags",
    "Choice",
    "Counts",
    "Direction",
    "Door",
    "Fault",
    "Hazard",
    "Host",
    "Need",
    "Outcome",
    "Result",
    "Routine",
    "Strategy",
    "View",
    "choose",
    "tagged_addr_ctrl",
    "why_not",
]
