"""ELF cores that hold memory, allocation tags and a machine (docs/formats/core.md is normative).

elf            numbers and byte tables of ELF
plan           what goes where in a file
sparse         planes written so that zero is a hole
thread_notes   registers as debuggers read them
machine_note   the vendor note: the whole machine
writer         the way to write one
"""

from tagalong.core.machine_note import CoreNotes, Space
from tagalong.core.plan import CoreSegment
from tagalong.core.writer import CoreReport, CoreWriter

__all__ = ["CoreNotes", "CoreReport", "CoreSegment", "CoreWriter", "Space"]
