"""The command line: one file per command, no logic; the work is done in tagalong.vmm."""

from tagalong.cli.app import main

__all__ = ["main"]
