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
    MigrationStage,
    TagalongError,
)

# Why we give a migration up ourselves.
_GIVEN_UP: Final = (ConvergenceError, MigrationCancelledError)

_SEND_AGAIN: Final = (
    "send them again (tagalong migrate CONTROL URI), or end the destination and then continue the "
    "guest here (cont)"
)
_LOOK_THERE: Final = (
    f"If it runs at the destination, end it here (quit); if it is held there, {_SEND_AGAIN}"
)
_LOOK_AT_BOTH: Final = (
    "look at both sides before you let the guest run on either (query-migrate, by a monitor of "
    "yours)"
)


def explained(error: TagalongError, departure: WatchedDeparture) -> TagalongError:
    """Return the error with what the VMM did, the cause chained and the stage as before.

    The stage is VMM if the VMM's own migration is what failed.
    """
    told = _told(error, departure)
    if told is not error:
        told.__cause__ = error.__cause__
        if isinstance(told, MigrationError):
            told.stage = getattr(error, "stage", None)
    if isinstance(told, MigrationError) and departure.has_vmm_failed:
        told.stage = MigrationStage.VMM
    return told


def _told(error: TagalongError, departure: WatchedDeparture) -> TagalongError:
    is_uncertain = isinstance(error, HandoverUncertainError)
    why = str(error.__cause__ or error) if is_uncertain else str(error)
    if isinstance(departure, OverlappingDeparture):
        return _told_of_overlap(error, departure, why, is_uncertain=is_uncertain)
    if isinstance(departure, DrivenDeparture):
        return _told_of_pause(error, departure, why, is_uncertain=is_uncertain)
    if is_uncertain:
        return HandoverUncertainError(
            f"the destination did not confirm the tags ({why}). If the VMM's migration has "
            f"completed, its guest is paused here. {_LOOK_THERE}"
        )
    if departure.stopped_at is None:
        return error
    return type(error)(
        f"{why}. If the VMM's migration has completed, its guest is paused here and held at the "
        f"destination, which does not run it without its tags: {_SEND_AGAIN}"
    )


def _told_of_pause(
    error: TagalongError, departure: DrivenDeparture, why: str, *, is_uncertain: bool
) -> TagalongError:
    if departure.unsettled is not None and departure.has_handed_over:
        return _unsettled(error, departure.unsettled, why, HandoverUncertainError)
    if departure.has_moved:
        return _told_of_moved(error, why, is_uncertain=is_uncertain)
    # The VMM has handed nothing over, so its own cancellation settles it.
    kind = _kind(error.__cause__) if is_uncertain else type(error)
    if departure.unsettled is not None:
        return kind(
            f"{why}. The VMM did not let its migration be cancelled ({departure.unsettled}): its "
            "guest may be paused here until that is done (migrate_cancel, by a monitor of yours)"
        )
    if is_uncertain:
        return kind(
            f"the destination did not confirm the tags ({why}); the VMM's migration was "
            "cancelled, its guest stays here"
        )
    return error


def _told_of_overlap(
    error: TagalongError, departure: OverlappingDeparture, why: str, *, is_uncertain: bool
) -> TagalongError:
    if departure.unsettled is not None:
        kind = HandoverUncertainError if departure.has_handed_over else type(error)
        return _unsettled(error, departure.unsettled, why, kind)
    if departure.has_moved:
        return _told_of_moved(error, why, is_uncertain=is_uncertain)
    if not is_uncertain or departure.end is None:
        return error
    return MigrationError(
        f"the destination did not confirm the tags ({why}), and {departure.in_words(departure.end)}"
        "; its guest stays here"
    )


def _told_of_moved(error: TagalongError, why: str, *, is_uncertain: bool) -> TagalongError:
    if is_uncertain:
        return HandoverUncertainError(
            f"the destination did not confirm the tags ({why}), and the VMM has handed its guest "
            f"over: it is paused here. {_LOOK_THERE}"
        )
    return type(error)(
        f"{why}. The VMM had handed its guest over by then: it is paused here, and held at the "
        f"destination, which does not run it without its tags: {_SEND_AGAIN}"
    )


def _unsettled(
    error: TagalongError, reason: TagalongError, why: str, kind: type[TagalongError]
) -> TagalongError:
    told = why if reason is error else f"{why}; and {reason}"
    return kind(f"{told}. So what became of the VMM's own migration is not known: {_LOOK_AT_BOTH}")


def _kind(cause: BaseException | None) -> type[TagalongError]:
    return next((each for each in _GIVEN_UP if isinstance(cause, each)), MigrationError)
