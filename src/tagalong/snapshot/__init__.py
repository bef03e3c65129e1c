"""Machines in core files: snapshots that can be restored, and dumps for debuggers.

save       a machine to a core, stopped or live
restore    a core to a machine, mapped copy-on-write
convert    a core, or any machine that stands still, to a core keyed by other addresses
layout     which memory goes where, for physical and for virtual addresses
vmcoreinfo_search  what a Linux guest's kernel says about itself, found in its memory
"""

from tagalong.progress import CancelToken
from tagalong.snapshot.convert import StillMachine, dump_core, dump_machine
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
    "StillMachine",
    "dump_core",
    "dump_machine",
    "restore",
    "save",
]
