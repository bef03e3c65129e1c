"""What the two sides of a race run: guest code, and VMM code as a sequence of calls."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from tagalong.errors import UsageError
from tagalong.memory import Gpa
from tagalong.mte import GRANULE_BYTES, PACKED_RATIO
from tagalong.mte.pointers import with_logical_tag
from tagalong.mte.registers import TagCheckMode
from tagalong.soft import RAM_GPA

RACED_GPA: Final = RAM_GPA
"""The granule that both sides access; the next one shares its byte of packed tags."""
LOOK_BYTES: Final = PACKED_RATIO

FIRST_TAG: Final = 1
MAX_WORDS: Final = 256


class Side(Enum):
    """The side that executes an instruction; the value is a letter in a schedule."""

    GUEST = "g"
    VMM = "v"


class Order(Enum):
    """What a look reads first; the values are the words shown to people."""

    TAGS_FIRST = "tags first"
    DATA_FIRST = "data first"


@dataclass(frozen=True)
class GuestCode:
    """A guest's instructions at EL1 with the MMU on and synchronous checks, as `words`.

    At their start x0 points at the granule through its tag, and x1 to x4 hold the data of the
    next two owners. They end after the last word. Raises UsageError for more than MAX_WORDS.
    """

    name: str
    words: tuple[int, ...]

    def __post_init__(self) -> None:
        check_length(self.name, self.words)


@dataclass(frozen=True)
class VmmCall:
    """A piece of VMM code, from `va` until it returns or arrives at `end_va`, if that is set."""

    what: str
    va: int
    arguments: tuple[int, ...]
    mode: TagCheckMode
    end_va: int | None = None


@dataclass(frozen=True)
class VmmCode:
    """A VMM's look at the granule: a sequence of calls at EL0.

    `words`: code of the user's own, at OWN_CODE_VA. `scratch`: the initial scratch memory.
    """

    name: str
    calls: tuple[VmmCall, ...]
    words: tuple[int, ...] = ()
    scratch: bytes = field(default=b"", repr=False)

    def __post_init__(self) -> None:
        check_length(self.name, self.words)
        if not self.calls:
            raise UsageError(f"the VMM's code {self.name!r} is empty")


def check_length(name: str, words: tuple[int, ...]) -> None:
    """Raise UsageError for a sequence of more than MAX_WORDS instructions."""
    if len(words) > MAX_WORDS:
        raise UsageError(
            f"cannot race {name}: it has {len(words)} instructions; the limit is {MAX_WORDS}"
        )


def owner_data(owner: int) -> int:
    """Return the word that owner number `owner` of the granule fills it with."""
    return owner * 0x0101_0101_0101_0101


def granule_of(owner: int) -> bytes:
    """Return the granule's 16 bytes as its owner leaves them."""
    return owner_data(owner).to_bytes(8, "little") * (GRANULE_BYTES // 8)


def guest_registers() -> dict[int, int]:
    """Return x0 to x4 at the guest's start: see GuestCode."""
    first, second = owner_data(2), owner_data(3)
    return {0: guest_pointer(RACED_GPA, FIRST_TAG), 1: first, 2: first, 3: second, 4: second}


def guest_pointer(gpa: Gpa, tag: int) -> int:
    """Return the guest's pointer: its RAM is mapped at its gpa."""
    return with_logical_tag(gpa, tag)
