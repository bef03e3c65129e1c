"""Which text may be shown on a terminal or in a log, whoever it comes from.

A peer, a control socket and a file's name can hold characters that a terminal obeys. One rule says
which those are, for the records of a migration, the answers of a VM and the text of every error.
"""

import unicodedata
from typing import Final

# Control and format characters (a terminal obeys the first, U+202E turns the second's line
# around), line and paragraph separators (a second line would look like another message),
# surrogates, private use and unassigned ones (what a terminal makes of them is open).
UNASSIGNED: Final = "Cn"
_STEERING: Final = frozenset({"Cc", "Cf", "Zl", "Zp", "Cs", "Co", UNASSIGNED})

MAX_TEXT_CHARACTERS: Final = 4096
REPLACEMENT: Final = "\N{REPLACEMENT CHARACTER}"


def is_presentable(character: str) -> bool:
    """Return whether a character may be shown as it is."""
    return unicodedata.category(character) not in _STEERING


def printable(value: str) -> str:
    """Return `value` cut to 4096 characters; one that must not be shown becomes U+FFFD."""
    cut = value[:MAX_TEXT_CHARACTERS]
    # Python's own rule also refuses some blanks; most text passes it, and at once.
    if cut.isprintable():
        shown = cut
    else:
        shown = "".join(each if is_presentable(each) else REPLACEMENT for each in cut)
    return shown if len(cut) == len(value) else f"{shown}..."


def one_line(value: str) -> str:
    """Return `value` as `printable` does, with a space for each end of a line."""
    return printable(value.strip().replace("\r\n", " ").replace("\n", " "))
