"""What a VMM may find when it reads a granule while the guest runs.

One vocabulary for what is measured on KVM and for what the race explorer finds on the
embedded machine. A read returns a granule's data and its tag.
"""

from enum import Enum


class Outcome(Enum):
    """The values are for people."""

    FAULT = "fault"
    """The VMM took a tag check fault."""
    TORN = "torn"
    """Data and tag, or two parts of the data, which the granule never had at one time."""
    STALE = "stale"
    """What the granule had at one time, but no longer when the read ended."""
    RIGHT = "right"
    """What the granule still had when the read ended."""
