"""Machines in core files: snapshots that can be restored, and dumps for debuggers.

save       a machine to a core, stopped or live
restore    a core to a machine, mapped copy-on-write
layout     which memory goes where, for physical and for virtual addresses
"""

from tagalong.snapshot.report import CancelToken, SaveProgress, SaveReport, Stage
from tagalong.snapshot.save import SaveOptions, save

__all__ = ["CancelToken", "SaveOptions", "SaveProgress", "SaveReport", "Stage", "save"]
