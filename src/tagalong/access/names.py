"""The words by which commands name the access strategies."""

from typing import Final

AUTO: Final = "auto"
"""The best of those that work on a host."""

ACCESS_NAMES: Final = (AUTO, "ioctl", "alias", "tco", "kernel", "prctl", "sp", "match")
"""AUTO, and the names of all strategies in the order of `choice.PREFERENCE`."""
