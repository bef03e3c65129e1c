"""Machines in core files: snapshots that can be restored, and dumps for debuggers.

saver      a machine to a core, stopped or live; options, what is asked for
restorer   a core to a machine, mapped copy-on-write
convert    a core, or any machine that stands still, to a core keyed by other addresses
layout     which memory goes where, for physical and for virtual addresses
vmcoreinfo_search  what a Linux guest's kernel says about itself, found in its memory
"""

from typing import TYPE_CHECKING

from tagalong._lazy import names_of

if TYPE_CHECKING:
    from tagalong.progress import CancelToken
    from tagalong.snapshot.convert import StillMachine, dump_core, dump_machine
    from tagalong.snapshot.options import SaveOptions
    from tagalong.snapshot.report import SaveProgress, SaveReport, SaveStage
    from tagalong.snapshot.restorer import Restored, restore
    from tagalong.snapshot.saver import save
else:
    __getattr__, __dir__ = names_of(
        __name__,
        {
            "tagalong.progress": ("CancelToken",),
            "tagalong.snapshot.convert": ("StillMachine", "dump_core", "dump_machine"),
            "tagalong.snapshot.options": ("SaveOptions",),
            "tagalong.snapshot.report": ("SaveProgress", "SaveReport", "SaveStage"),
            "tagalong.snapshot.restorer": ("Restored", "restore"),
            "tagalong.snapshot.saver": ("save",),
        },
    )

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
