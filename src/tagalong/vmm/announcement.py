"""What a VM's process tells people about its migrations."""

from tagalong.errors import TagalongError
from tagalong.vmm.causes import with_causes
from tagalong.vmm.record import MigrationStatus
from tagalong.vmm.states import VmState


def announcement(status: str, state: VmState, error: TagalongError | None) -> str | None:
    """Return the words for a MIGRATION event; None for one that needs none."""
    match MigrationStatus(status):
        case MigrationStatus.COMPLETED if state is VmState.POSTMIGRATE:
            return (
                "the VM has moved to the destination; this process keeps a stopped copy "
                "until it is told to quit (state postmigrate)"
            )
        case MigrationStatus.COMPLETED:
            return f"the VM has arrived and is {state.value}"
        case MigrationStatus.CANCELLED:
            return "migration cancelled; the VM stays here"
        case MigrationStatus.FAILED:
            cause = f": {with_causes(error)}" if error is not None else ""
            return f"migration failed; {_whereabouts(state)}{cause}"
        case _:
            return None


def _whereabouts(state: VmState) -> str:
    if state is VmState.INMIGRATE:
        return "nothing was started here"
    if state is VmState.POSTMIGRATE:
        return "the destination may be running the VM, it stays stopped here"
    return "the VM stays here"
