"""The error that a cancelled migration ends with."""

from tagalong.errors import MigrationCancelledError
from tagalong.progress import CancelToken


def cancelled() -> MigrationCancelledError:
    """Return the error that ends a cancelled migration."""
    return MigrationCancelledError("the migration was cancelled")


def check_cancelled(cancel: CancelToken | None) -> None:
    """Raise MigrationCancelledError if the migration is to be cancelled."""
    if cancel is not None and cancel.is_set():
        raise cancelled()
