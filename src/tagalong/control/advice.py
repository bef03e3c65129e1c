"""After a migration that did not succeed: who has the VM, and what to do next."""

from tagalong.errors import (
    ConvergenceError,
    DigestMismatchError,
    HandoverUncertainError,
    MachineMismatchError,
    MigrationCancelledError,
    TagalongError,
    UsageError,
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
        case UsageError():
            return "Nobody was called yet: correct the command and migrate again"
        case MigrationCancelledError():
            return f"To move it after all, {_AGAIN}"
        case ConvergenceError():
            return (
                "Allow more downtime (--max-downtime), let the guest be slowed down "
                f"(--auto-converge), compress (--compress auto) or use a faster link; then {_AGAIN}"
            )
        case MachineMismatchError():
            return f"Give the destination the source's --machine, --ram and --vcpus: {_AGAIN}"
        case DigestMismatchError():
            return "Source and destination differ although every record was whole: report this"
        case _:
            return _remedy_for_host(str(error))


def _remedy_for_host(text: str) -> str:
    """Return what helps where something between the two, or at one of them, failed."""
    if "(setup)" in text:
        return (
            "Look at what the destination says: does it want TLS (--tls-dir), or speak another "
            f"version? If it has ended, {_AGAIN}"
        )
    if "did not begin" in text:
        return (
            "See that the destination waits there, or that the file can be written, and, with TLS, "
            "that each side's certificate is one that the other trusts; then migrate again"
        )
    return (
        f"Remove the cause (--reconnect SECONDS bridges a link that breaks now and then), {_AGAIN}"
    )
