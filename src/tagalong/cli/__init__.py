"""The command line: one file per command, no logic.

Private: scripts run the command; each of its reports is JSON with --json.
"""

from typing import TYPE_CHECKING

from tagalong._lazy import names_of

if TYPE_CHECKING:
    from tagalong.cli.app import main
else:
    __getattr__, __dir__ = names_of(
        __name__,
        {
            "tagalong.cli.app": ("main",),
        },
    )

__all__ = ["main"]
