"""Words for people; no output here, so that every text can be tested."""

from tagalong.errors import TagalongError


def error_line(error: TagalongError) -> str:
    """Return one line: what failed, then each cause that adds something."""
    parts = [str(error) or type(error).__name__]
    cause = error.__cause__
    while cause is not None:
        text = str(cause) or type(cause).__name__
        if not any(text in part for part in parts):
            parts.append(text)
        cause = cause.__cause__
    return "tagalong: error: " + ": ".join(parts).replace("\n", " ")
