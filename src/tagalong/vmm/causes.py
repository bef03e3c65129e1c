"""Errors with what caused them, in one line; and what to make of a bug of ours."""

import logging
import ssl

from tagalong.errors import MigrationError


def with_causes(error: BaseException) -> str:
    """Return the error's text and that of each cause which adds something.

    >>> with_causes(MigrationError("cannot connect to h:1"))  # from ConnectionRefusedError
    'cannot connect to h:1: [Errno 111] Connection refused'
    """
    parts = [_text(error)]
    cause = error.__cause__
    while cause is not None:
        if not any(_gist(cause) in part for part in parts):
            parts.append(_text(cause))
        cause = cause.__cause__
    return ": ".join(parts).replace("\n", " ")


def _text(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _gist(error: BaseException) -> str:
    """Return what of an error must have been said already if it adds nothing."""
    gist: str | None = None
    if isinstance(error, ssl.SSLCertVerificationError):
        gist = error.verify_message
    elif isinstance(error, OSError):
        gist = error.strerror
    return gist or _text(error)


def unexpected(error: Exception) -> MigrationError:
    """Return the MigrationError for a bug of ours in a migration's thread, and log the bug.

    It must not take the VM with it: the migration fails and everything else goes on.
    """
    logging.getLogger(__name__).error("bug in tagalong, please report it", exc_info=error)
    failure = MigrationError(f"internal error: {type(error).__name__}: {error}")
    failure.__cause__ = error
    return failure
