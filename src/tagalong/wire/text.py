"""Text in records: it is shown on a terminal and in logs, so nothing in it may steer either."""

import unicodedata

from tagalong.binary.layout import MalformedError
from tagalong.printable import REPLACEMENT, UNASSIGNED, is_presentable
from tagalong.wire import limits


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
        if not is_presentable(character) and unicodedata.category(character) != UNASSIGNED:
            raise MalformedError(
                f"the text has the character U+{ord(character):04X}, which must not be shown",
                offset=base + len(text[:place].encode()),
            )
    return "".join(each if is_presentable(each) else REPLACEMENT for each in text)
