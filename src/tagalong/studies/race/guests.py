"""The built-in guest sequences: what an allocator does to a granule.

GuestCode says how they start: x0 points at the granule through its tag, x1 and x2 are the next
owner's data, x3 and x4 those of the one after. The words are A64; the comments beside them are
the assembly.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from tagalong.errors import UsageError
from tagalong.studies.race.code import GuestCode

_NEXT_TAG: Final = 0x9180_0400  # addg x0, x0, #0, #1
_STG: Final = 0xD920_0800  # stg x0, [x0]
_STZG: Final = 0xD960_0800  # stzg x0, [x0]
_FILL_2: Final = 0xA900_0801  # stp x1, x2, [x0]
_FILL_3: Final = 0xA900_1003  # stp x3, x4, [x0]
_STGP_2: Final = 0x6900_0801  # stgp x1, x2, [x0]
_STGP_3: Final = 0x6900_1003  # stgp x3, x4, [x0]

_SEQUENCES: Final = {
    "retag": ((_NEXT_TAG, _STG, _FILL_2, _NEXT_TAG, _STG, _FILL_3), "tag, then data, twice"),
    "retag-once": ((_NEXT_TAG, _STG, _FILL_2), "tag, then data"),
    "clear": ((_NEXT_TAG, _STZG, _FILL_2, _NEXT_TAG, _STZG, _FILL_3), "tag and zeros, then data"),
    "pair": ((_NEXT_TAG, _STGP_2, _NEXT_TAG, _STGP_3), "tag and data in one instruction"),
    "paused": ((), "nothing: the guest does not run"),
}

GUESTS: Final[Mapping[str, GuestCode]] = MappingProxyType(
    {name: GuestCode(name, words) for name, (words, _) in _SEQUENCES.items()}
)
SUMMARIES: Final[Mapping[str, str]] = MappingProxyType(
    {name: summary for name, (_, summary) in _SEQUENCES.items()}
)


def guest_code(name: str) -> GuestCode:
    """Return the guest sequence `name`. Raises UsageError that lists those that exist."""
    if name not in GUESTS:
        raise UsageError(f"unknown guest sequence {name!r}; there are {', '.join(GUESTS)}")
    return GUESTS[name]
