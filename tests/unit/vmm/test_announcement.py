"""The words for people about migrations."""

import dataclasses

import pytest

from tagalong.errors import HandoverUncertainError, MigrationError
from tagalong.qapi.migration import MigrationStatus
from tagalong.vmm.announcement import announcement
from tagalong.vmm.record import MigrationRecord
from tagalong.vmm.states import VmState
from tests.support.results import ARRIVAL, migration_result


@pytest.mark.parametrize(
    ("status", "state", "words"),
    [
        (
            "completed",
            VmState.POSTMIGRATE,
            "the VM has moved to the destination; this process holds a paused copy until it is "
            "told to quit (state postmigrate)",
        ),
        ("completed", VmState.RUNNING, "the VM has arrived and is running"),
        ("completed", VmState.PAUSED, "the VM has arrived and is paused"),
        ("cancelled", VmState.RUNNING, "migration cancelled; the VM stays here"),
        ("failed", VmState.RUNNING, "migration failed; the VM stays here: no route"),
        ("failed", VmState.INMIGRATE, "migration failed; nothing was started here: no route"),
        ("setup", VmState.RUNNING, None),
        ("active", VmState.RUNNING, None),
        ("cancelling", VmState.RUNNING, None),
    ],
)
def test_announcement_says_where_the_vm_is(status: str, state: VmState, words: str | None) -> None:
    record = MigrationRecord(MigrationStatus(status), error=MigrationError("no route"))

    assert announcement(record, state) == words


def test_announcement_uncertain_handover_says_both_sides() -> None:
    record = MigrationRecord(MigrationStatus.FAILED, error=HandoverUncertainError("cut"))

    assert announcement(record, VmState.POSTMIGRATE) == (
        "migration failed; the destination may be running the VM, it stays paused here: cut"
    )


def test_announcement_source_that_could_not_be_told_is_mentioned() -> None:
    report = dataclasses.replace(ARRIVAL, acknowledged=False, migration_id="abc")
    record = MigrationRecord(MigrationStatus.COMPLETED, report=report)

    assert announcement(record, VmState.RUNNING) == (
        "the VM has arrived and is running, but the source could not be told that migration abc "
        "took over: end the VM there"
    )


def test_announcement_of_a_vm_that_is_kept_in_a_file_says_that_it_waits() -> None:
    record = MigrationRecord(MigrationStatus.COMPLETED, report=migration_result(one_way=True))

    assert announcement(record, VmState.POSTMIGRATE) == (
        "the VM has moved to where it waits to be loaded; this process holds a "
        "paused copy until it is told to quit (state postmigrate)"
    )
