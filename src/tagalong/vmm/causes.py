"""An error and what caused it, in one line."""


def with_causes(error: BaseException) -> str:
    """Return the error's text and that of each cause which adds something.

    >>> with_causes(MigrationError("cannot connect to h:1"))  # from ConnectionRefusedError
    'cannot connect to h:1: [Errno 111] Connection refused'
    """
    parts = [_text(error)]
    cause = error.__cause__
    while cause is not None:
        if not any(_text(cause) in part for part in parts):
            parts.append(_text(cause))
        cause = cause.__cause__
    return ": ".join(parts).replace("\n", " ")


def _text(error: BaseException) -> str:
    return str(error) or type(error).__name__
