"""The words by which commands name the access strategies."""

from typing import Final

AUTO: Final = "auto"
"""The best of those that work on a host."""

IOCTL: Final = "ioctl"
"""The best of all; a machine does it by itself, so one that needs no other loads none."""

IOCTL_REASON: Final = "never faults, needs no mapping with PROT_MTE and no state of the thread"

ACCESS_NAMES: Final = (AUTO, IOCTL, "alias", "tco", "kernel", "prctl", "sp", "match")
"""AUTO, and the names of all strategies in the order of `choice.PREFERENCE`."""
