"""After a migration that did not succeed: who has the VM, and what to do next."""

from tagalong.errors import (
    ConvergenceError,
    DigestMismatchError,
    HandoverUncertainError,
    MachineMismatchError,
    MigrationCancelledError,
    TagalongError,
)

_AGAIN = "start a new destination (tagalong run --incoming) and migrate again"


def next_steps(error: TagalongError, source_state: str | None) -> str:
    """Return two sentences for the operator.

    `source_state` is the source's run state after the failure, None if it does not answer.
    """
    if isinstance(error, HandoverUncertainError):
        return (
            "The source holds the VM stopped, and the destination may be running it. Ask the "
            "destination (query-status): if it has the VM, tell the source to quit; if it has "
            "not, the source's copy is the VM: tell it x-reclaim and cont."
        )
    return f"{_whereabouts(source_state)} {_remedy(error)}."


def _whereabouts(source_state: str | None) -> str:
    if source_state is None:
        return "The source does not answer, so where the VM is cannot be told from here."
    return f"The VM is at the source ({source_state}); nothing was started at the destination."


def _remedy(error: TagalongError) -> str:
    match error:
        case MigrationCancelledError():
            return f"To move it after all, {_AGAIN}"
        case ConvergenceError():
            return (
                f"Allow more downtime (--max-downtime) or let the guest write less; then {_AGAIN}"
            )
        case MachineMismatchError():
            return f"Give the destination the source's --machine, --ram and --vcpus: {_AGAIN}"
        case DigestMismatchError():
            return "Source and destination differ although every record was whole: report this"
        case _:
            return f"Remove the cause, {_AGAIN}"
