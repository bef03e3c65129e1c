"""What `tagalong check` finds in a core: values and words, no looking."""

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

GDB = "gdb"
LLDB = "lldb"
DEBUGGERS = {GDB: "gdb 13.1", LLDB: "lldb 19.1.7"}
"""The versions whose behaviour the findings describe; tests run them."""


class Level(Enum):
    """How much a finding matters; notes do not change the verdict on the file."""

    ERROR = "error"
    """The file is damaged or contradicts itself."""
    WARNING = "warning"
    """The file is sound, but a debugger will not show all tags of the memory, or registers."""
    NOTE = "note"
    """Worth knowing; nothing that another file could do better."""


class Rule(Enum):
    """What is looked for; the values are stable names (docs/formats/core.md, section 6)."""

    CUT_SHORT = "cut-short"
    """The file ends before a segment does."""
    DAMAGED_NOTES = "damaged-notes"
    """The notes cannot be read."""
    DAMAGED_MACHINE_NOTE = "damaged-machine-note"
    """The vendor note cannot be read."""
    DAMAGED_VMCOREINFO = "damaged-vmcoreinfo"
    """The note about the guest's Linux kernel makes no sense."""
    NO_REGISTERS = "no-registers"
    """There is no NT_PRSTATUS."""
    OTHER_SYSTEM = "other-system"
    """The notes are those of another operating system than Linux."""
    NO_HWCAP2_MTE = "no-hwcap2-mte"
    """Nothing says that the machine has MTE."""
    NO_TAGGED_ADDR_CTRL = "no-tagged-addr-ctrl"
    """There is no NT_ARM_TAGGED_ADDR_CTRL."""
    NO_TAG_SEGMENTS = "no-tag-segments"
    """There are no tags."""
    OLD_TAG_TYPE = "old-tag-type"
    """The tags have the segment type of kernels before 5.18."""
    TAGS_NOT_WRITTEN = "tags-not-written"
    """Memory had tags that are not in the core: p_filesz of its tag segment is 0."""
    TAG_SIZE = "tag-size"
    """p_filesz of a tag segment is not 1/32 of p_memsz."""
    NOT_GRANULES = "not-granules"
    """A tag segment does not consist of whole granules."""
    OVERLAP = "overlap"
    """Two segments claim the same memory."""
    UNEQUAL_RANGES = "unequal-ranges"
    """A tag segment has another range than any PT_LOAD."""
    NO_TAGS_HERE = "no-tags-here"
    """Some memory has no tags."""
    LLDB_TOP_BYTE = "lldb-top-byte"
    """lldb cannot read tags at addresses with a top byte."""
    LLDB_LAST_GRANULE = "lldb-last-granule"
    """lldb cannot read a range that ends with a tag segment."""


class Harm(Enum):
    """What a finding does to the tags that a debugger shows."""

    ALL = "none of the tags can be read"
    HERE = "the tags of this segment cannot be read"
    PART = "some tags of this segment cannot be read"
    WRONG = "wrong tags are shown"


class Effect(NamedTuple):
    """What one debugger does about a finding, in its own words where it has some."""

    text: str
    harm: Harm | None = None


class Finding(NamedTuple):
    """One finding.

    `offset` is the place in the file, `address` the one in memory, `end` that behind the
    range; None if the finding is about no such place.
    """

    rule: Rule
    level: Level
    message: str
    offset: int | None = None
    address: int | None = None
    end: int | None = None
    gdb: Effect | None = None
    lldb: Effect | None = None

    def effect(self, debugger: str) -> Effect | None:
        """Return what `debugger` (GDB or LLDB) does about it, None if nothing."""
        return self.gdb if debugger == GDB else self.lldb


class Tags(Enum):
    """How many of a core's tags a debugger can show."""

    ALL = "all"
    SOME = "some"
    NONE = "none"
    UNKNOWN = "unknown"
    """It was not tried with cores of this kind."""


@dataclass(frozen=True)
class Verdict:
    """What one debugger will do with the core's tags, and the findings that say why."""

    debugger: str
    tags: Tags
    wrong: bool
    reasons: tuple[Rule, ...]
