"""What becomes of a bug of ours in a thread that works on a VM."""

import logging

from tagalong.errors import MigrationError


def unexpected(error: Exception) -> MigrationError:
    """Return the MigrationError for a bug of ours in a migration's thread, and log the bug.

    A bug must not take the VM with it: the migration fails and everything else continues.
    """
    logging.getLogger(__name__).error("bug in tagalong, please report it", exc_info=error)
    failure = MigrationError(f"internal error: {type(error).__name__}: {error}")
    failure.__cause__ = error
    return failure
