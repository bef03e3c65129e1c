"""tagalong carries an Arm MTE guest's allocation tags along with its memory.

`open_core` reads snapshots and dumps, and cores that others wrote (`tagalong.core`).
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tagalong.core import open_core

__version__ = "0.1.0"

__all__ = ["__version__", "open_core"]


def __getattr__(name: str) -> object:
    """Load the public functions when they are used: the command starts without them."""
    if name == "open_core":
        return import_module("tagalong.core").open_core
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
