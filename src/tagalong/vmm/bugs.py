"""What becomes of an error without a class of ours in a thread that works on a VM."""

import logging

from tagalong.errors import HostError, MigrationError, TagalongError


def unexpected(error: Exception) -> TagalongError:
    """Return the error of ours for anything else that a thread which works on a VM may raise.

    What the host lacks is a HostError. The rest is a bug: it is logged, and must not take the VM
    with it. The migration or the snapshot fails and everything else continues.
    """
    if isinstance(error, MemoryError | OSError):
        lacking = error.strerror if isinstance(error, OSError) else "not enough memory"
        refusal = HostError(f"the host refused: {lacking or error}")
        refusal.__cause__ = error
        return refusal
    logging.getLogger(__name__).error("bug in tagalong, please report it", exc_info=error)
    failure = MigrationError(f"internal error: {type(error).__name__}: {error}")
    failure.__cause__ = error
    return failure
