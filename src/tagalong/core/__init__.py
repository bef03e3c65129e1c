"""ELF cores that hold memory, allocation tags and a machine (docs/formats/core.md is normative).

A snapshot is an ELF core: one file is restored, mapped and opened in a debugger. Notes are written
last, into room that was left in front, because a running machine's registers are known last, and
everything else can be replaced in place until then. The vendor note holds the machine in the
stream's own records: one codec, one set of limits. A tag segment says that tags are known. Absent
tags are not zero: a reader that is asked for tags, or data, that the file does not have raises an
error.

note_types     types of segments and notes, owners of notes
plan           what goes where in a file
sparse         planes written so that zero is a hole
space          what its addresses mean
thread_notes   registers as debuggers read them
machine_note   the vendor note: the whole machine
vmcoreinfo     what a Linux kernel says about itself, for drgn and crash
writer         the way to write a core

source         the bytes of a file, mapped
compressed     the bytes of a compressed core; packing makes one, and undoes it
headers        ELF header and program headers, read as hostile input
coverage       which segment answers for which address
regions        which addresses have data, tags, or both
notes          registers, read
reader         open_core: the way to read a core
unpacked       open_any_core: the same for one that zstd compressed as one stream
pages          its memory as a source of pages, for digests, censuses and other cores
"""

from typing import TYPE_CHECKING

from tagalong._lazy import names_of

if TYPE_CHECKING:
    from tagalong.core.machine_note import CoreNotes
    from tagalong.core.notes import CoreVcpu, Note
    from tagalong.core.packing import pack, unpack
    from tagalong.core.pages import CorePages
    from tagalong.core.plan import CoreSegment
    from tagalong.core.reader import Core, open_core
    from tagalong.core.regions import CoreRegion
    from tagalong.core.space import Space
    from tagalong.core.unpacked import open_any_core
    from tagalong.core.vmcoreinfo import Vmcoreinfo
    from tagalong.core.writer import CoreWriter, room_for_notes
    from tagalong.files import WrittenFile
else:
    __getattr__, __dir__ = names_of(
        __name__,
        {
            "tagalong.core.machine_note": ("CoreNotes",),
            "tagalong.core.notes": ("CoreVcpu", "Note"),
            "tagalong.core.packing": ("pack", "unpack"),
            "tagalong.core.pages": ("CorePages",),
            "tagalong.core.plan": ("CoreSegment",),
            "tagalong.core.reader": ("Core", "open_core"),
            "tagalong.core.regions": ("CoreRegion",),
            "tagalong.core.space": ("Space",),
            "tagalong.core.unpacked": ("open_any_core",),
            "tagalong.core.vmcoreinfo": ("Vmcoreinfo",),
            "tagalong.core.writer": ("CoreWriter", "room_for_notes"),
            "tagalong.files": ("WrittenFile",),
        },
    )

__all__ = [
    "Core",
    "CoreNotes",
    "CorePages",
    "CoreRegion",
    "CoreSegment",
    "CoreVcpu",
    "CoreWriter",
    "Note",
    "Space",
    "Vmcoreinfo",
    "WrittenFile",
    "open_any_core",
    "open_core",
    "pack",
    "room_for_notes",
    "unpack",
]
