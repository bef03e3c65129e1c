"""The command line: one file per command, no logic.

Private: scripts run the command; each of its reports is JSON with --json.
"""

from tagalong.cli.app import main

__all__ = ["main"]
