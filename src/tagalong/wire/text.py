"""Text in records: for a person, on a terminal, so nothing in it may steer one."""

import unicodedata

from tagalong.binary.layout import MalformedError
from tagalong.wire import limits


def presentable(text: str) -> bytes:
    """Return `text` in the form in which ABORT can carry it, whatever it is."""
    # An abort must get through whatever its text is, so the text is made to fit: cut at
    # the limit (never inside a character), no surrogates, spaces for control characters.
    plain = "".join(" " if _is_control(each) else each for each in text)
    encoded = plain.encode("utf-8", "replace")[: limits.MAX_ABORT_TEXT_BYTES]
    return encoded.decode("utf-8", "ignore").encode()


def _is_control(character: str) -> bool:
    return unicodedata.category(character) == "Cc"


def decode_text(raw: bytes, base: int) -> str:
    """Return the text in `raw`, which lies at `base` in its payload. Raises MalformedError."""
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise MalformedError(
            f"the text is not UTF-8: {error.reason}", offset=base + error.start
        ) from error
    # It is going to be shown on someone's terminal.
    for place, character in enumerate(text):
        if _is_control(character):
            raise MalformedError(
                f"the text has the control character {ord(character):#04x}",
                offset=base + len(text[:place].encode()),
            )
    return text
