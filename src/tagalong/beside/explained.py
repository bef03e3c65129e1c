"""Why a migration of tags failed, for the operator: where the guest is, and how to go on."""

from typing import Final

from tagalong.beside.driving import DrivenDeparture
from tagalong.beside.overlapping import OverlappingDeparture
from tagalong.beside.switchover import WatchedDeparture
from tagalong.errors import (
    ConvergenceError,
    HandoverUncertainError,
    MigrationCancelledError,
    MigrationError,
    TagalongError,
)

# Why we give a migration up ourselves.
_GIVEN_UP: Final = (ConvergenceError, MigrationCancelledError)

_SEND_AGAIN: Final = (
    "send them again (tagalong migrate CONTROL URI), or end the destination and then continue the "
    "guest here (cont)"
)


def explained(error: TagalongError, departure: WatchedDeparture) -> TagalongError:
    """Return the error with what the VMM did, the cause chained and the stage as before."""
    told = _told(error, departure)
    if told is error:
        return error
    told.__cause__ = error.__cause__
    if isinstance(told, MigrationError):
        told.stage = getattr(error, "stage", None)
    return told


def _told(error: TagalongError, departure: WatchedDeparture) -> TagalongError:
    is_uncertain = isinstance(error, HandoverUncertainError)
    if isinstance(departure, OverlappingDeparture):
        return _told_of_overlap(error, departure, is_uncertain=is_uncertain)
    if isinstance(departure, DrivenDeparture):
        return _told_of_pause(error, departure, is_uncertain=is_uncertain)
    if departure.stopped_at is None:
        return error
    return type(error)(
        f"{error}. If the VMM's migration has completed, its guest is paused here and held at the "
        f"destination, which does not run it without its tags: {_SEND_AGAIN}"
    )


def _told_of_pause(
    error: TagalongError, departure: DrivenDeparture, *, is_uncertain: bool
) -> TagalongError:
    if is_uncertain:
        # The VMM has handed nothing over, so its own cancellation settles it.
        cause = error.__cause__
        kind: type[TagalongError] = next(
            (each for each in _GIVEN_UP if isinstance(cause, each)), MigrationError
        )
        return kind(
            f"the destination did not confirm the tags ({cause or error}); the VMM's migration was "
            "cancelled, its guest stays here"
        )
    if departure.is_unsettled:
        return type(error)(
            f"{error}. The VMM did not let its migration be cancelled: its guest may be paused "
            "here until that is done (migrate_cancel, by a monitor of yours)"
        )
    return error


def _told_of_overlap(
    error: TagalongError, departure: OverlappingDeparture, *, is_uncertain: bool
) -> TagalongError:
    why = str(error.__cause__ or error) if is_uncertain else str(error)
    if departure.is_unsettled:
        return type(error)(
            f"{why}. The VMM does not say what became of its own migration: look at both sides "
            "before you let the guest run on either (query-migrate, by a monitor of yours)"
        )
    if not is_uncertain:
        if not departure.has_moved:
            return error
        return type(error)(
            f"{why}. The VMM had handed its guest over by then: it is paused here, and held at the "
            f"destination, which does not run it without its tags: {_SEND_AGAIN}"
        )
    if departure.has_moved:
        return HandoverUncertainError(
            f"the destination did not confirm the tags ({why}), and the VMM has handed its guest "
            "over: it is paused here. If it runs at the destination, end it here; if it is held "
            f"there, {_SEND_AGAIN}"
        )
    return MigrationError(
        f"the destination did not confirm the tags ({why}), and the VMM's own migration has "
        "failed: its guest stays here"
    )
