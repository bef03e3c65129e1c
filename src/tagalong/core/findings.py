"""What `tagalong check` finds in a core: values and words, no looking."""

from dataclasses import dataclass
from enum import Enum

GDB = "gdb"
LLDB = "lldb"
DEBUGGERS = {GDB: "gdb 13.1", LLDB: "lldb 19.1.7"}
"""The versions whose behaviour the findings describe; tests run them."""


class Level(Enum):
    """How much a finding matters; notes do not change the verdict on the file."""

    ERROR = "error"
    """The file is damaged or contradicts itself."""
    WARNING = "warning"
    """The file is sound, but a debugger will not give tags that are in it, or registers."""
    NOTE = "note"
    """Worth knowing; nothing that another file could do better."""


class Harm(Enum):
    """What a finding does to the tags that a debugger shows."""

    ALL = "none of the tags can be read"
    HERE = "the tags of this segment cannot be read"
    WRONG = "wrong tags are shown"


@dataclass(frozen=True)
class Effect:
    """What one debugger does about a finding, in its own words where it has some."""

    text: str
    harm: Harm | None = None


@dataclass(frozen=True)
class Finding:
    """One finding. `rule` is its stable name.

    `offset` is the place in the file, `address` the one in memory, `end` that behind the
    range that is meant; None where there is none.
    """

    rule: str
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


@dataclass(frozen=True)
class Verdict:
    """What one debugger will do with the core's tags, and the findings that say why."""

    debugger: str
    tags: Tags
    wrong: bool
    reasons: tuple[str, ...]
