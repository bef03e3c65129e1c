"""What a VM's process tells people about its migrations, snapshots and dumps."""

from tagalong.vmm.causes import with_causes
from tagalong.vmm.record import MigrationRecord, MigrationStatus
from tagalong.vmm.save_record import SaveRecord
from tagalong.vmm.states import VmState


def announcement(record: MigrationRecord, state: VmState) -> str | None:
    """Return the words for a migration that has reached a new status; None if it needs none.

    `state` is the run state of the VM by now.
    """
    match record.status:
        case MigrationStatus.COMPLETED if state is VmState.POSTMIGRATE:
            return (
                f"the VM has moved to {_where(record)}; this process keeps a stopped copy "
                "until it is told to quit (state postmigrate)"
            )
        case MigrationStatus.COMPLETED:
            return f"the VM has arrived and is {state.value}{_source_not_told(record)}"
        case MigrationStatus.CANCELLED:
            return "migration cancelled; the VM stays here"
        case MigrationStatus.FAILED:
            cause = f": {with_causes(record.error)}" if record.error is not None else ""
            return f"migration failed; {_whereabouts(state)}{cause}"
        case _:
            return None


def _where(record: MigrationRecord) -> str:
    is_one_way = record.report is not None and record.report.get("one_way") is True
    return "where it is kept until somebody loads it" if is_one_way else "the destination"


def _whereabouts(state: VmState) -> str:
    if state is VmState.INMIGRATE:
        return "nothing was started here"
    if state is VmState.POSTMIGRATE:
        return "the destination may be running the VM, it stays stopped here"
    return "the VM stays here"


def _source_not_told(record: MigrationRecord) -> str:
    if record.report is None or record.report.get("acknowledged") is not False:
        return ""
    name = record.report.get("migration_id")
    return f", but the source could not be told that migration {name} took over: end the VM there"


def save_announcement(record: SaveRecord) -> str:
    """Return the words for a snapshot or a dump that has ended."""
    what = f"{record.request.kind.value} to {record.request.path}"
    if record.error is not None:
        return f"{what} failed, the VM goes on as it was: {with_causes(record.error)}"
    return f"{what} is complete"
