"""Machines in core files: snapshots that can be restored, and dumps for debuggers.

save       a machine to a core, stopped or live
restore    a core to a machine, mapped copy-on-write
convert    a core to a core that is keyed by other addresses
layout     which memory goes where, for physical and for virtual addresses
"""

from tagalong.progress import CancelToken
from tagalong.snapshot.convert import dump_core
from tagalong.snapshot.report import SaveProgress, SaveReport, SaveStage
from tagalong.snapshot.restore import Restored, restore
from tagalong.snapshot.save import SaveOptions, save

__all__ = [
    "CancelToken",
    "Restored",
    "SaveOptions",
    "SaveProgress",
    "SaveReport",
    "SaveStage",
    "dump_core",
    "restore",
    "save",
]
