"""Text in records: it is shown on a terminal and in logs, so nothing in it may steer either."""

import unicodedata
from typing import Final

from tagalong.binary.layout import MalformedError
from tagalong.wire import limits

# Control and format characters (a terminal obeys the first, U+202E turns the second's line
# around), line and paragraph separators (a second line would look like another message),
# surrogates, private use and unassigned ones (what a terminal makes of them is open).
_UNASSIGNED: Final = "Cn"
_STEERING: Final = frozenset({"Cc", "Cf", "Zl", "Zp", "Cs", "Co", _UNASSIGNED})
_REPLACEMENT: Final = "\N{REPLACEMENT CHARACTER}"


def is_presentable(character: str) -> bool:
    """Return whether a character may be shown as it is."""
    return unicodedata.category(character) not in _STEERING


def presentable(text: str) -> bytes:
    """Return `text` in the form in which ABORT can carry it, whatever it is."""
    # An abort must get through whatever its text is, so the text is made to fit: cut at
    # the limit (never inside a character), and a space for each character that must not be sent.
    plain = "".join(each if is_presentable(each) else " " for each in text)
    encoded = plain.encode()[: limits.MAX_ABORT_TEXT_BYTES]
    return encoded.decode("utf-8", "ignore").encode()


def decode_text(raw: bytes, base: int) -> str:
    """Return the text in `raw`, which is at `base` in its payload. Raises MalformedError.

    An unassigned character becomes U+FFFD: the peer may know a newer Unicode, and its reason to
    give up must not be lost over that.
    """
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise MalformedError(
            f"the text is not UTF-8: {error.reason}", offset=base + error.start
        ) from error
    for place, character in enumerate(text):
        if not is_presentable(character) and unicodedata.category(character) != _UNASSIGNED:
            raise MalformedError(
                f"the text has the character U+{ord(character):04X}, which must not be shown",
                offset=base + len(text[:place].encode()),
            )
    return "".join(each if is_presentable(each) else _REPLACEMENT for each in text)
