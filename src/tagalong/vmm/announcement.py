"""What a VM's process prints about its migrations, snapshots and dumps."""

from tagalong.errors import with_causes
from tagalong.qapi.migration import MigrationStatus
from tagalong.qapi.reports import ArrivalReport, MigrationResult
from tagalong.vmm.record import MigrationRecord
from tagalong.vmm.save_record import SaveRecord
from tagalong.vmm.states import VmState


def announcement(record: MigrationRecord, state: VmState) -> str | None:
    """Return the words for a migration that has entered a new status; None if it needs none.

    `state` is the run state of the VM by now.
    """
    match record.status:
        case MigrationStatus.COMPLETED if state is VmState.POSTMIGRATE:
            return (
                f"the VM has moved to {_where(record)}; this process holds a paused copy "
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
    result = record.report
    is_one_way = isinstance(result, MigrationResult) and result.report.one_way
    return "where it waits to be loaded" if is_one_way else "the destination"


def _whereabouts(state: VmState) -> str:
    match state:
        case VmState.INMIGRATE:
            return "nothing was started here"
        case VmState.POSTMIGRATE:
            return "the destination may be running the VM, it stays paused here"
        case VmState.SHUTDOWN:
            return "the guest has powered off"
        case VmState.INTERNAL_ERROR:
            return "the machine has failed"
        case _:
            return "the VM stays here"


def _source_not_told(record: MigrationRecord) -> str:
    report = record.report
    if not isinstance(report, ArrivalReport) or report.acknowledged:
        return ""
    return (
        f", but the source could not be told that migration {report.migration_id} took over: "
        "end the VM there"
    )


def save_announcement(record: SaveRecord) -> str:
    """Return the words for a snapshot or a dump that has ended."""
    what = f"{record.request.kind.value} to {record.request.path}"
    if record.error is not None:
        return f"{what} failed, the VM continues as before: {with_causes(record.error)}"
    return f"{what} is complete"
