"""The words by which commands name the kinds of machine."""

from typing import Final

AUTO: Final = "auto"
"""The kind that runs guests with MTE on this host."""

MACHINE_NAMES: Final = (AUTO, "kvm", "soft")
"""AUTO, and the kinds that `factory` makes."""
