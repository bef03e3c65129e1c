"""The words for people about migrations."""

import pytest

from tagalong.errors import HandoverUncertainError, MigrationError
from tagalong.vmm.announcement import announcement
from tagalong.vmm.states import VmState


@pytest.mark.parametrize(
    ("status", "state", "words"),
    [
        (
            "completed",
            VmState.POSTMIGRATE,
            "the VM has moved to the destination; this process keeps a stopped copy until it is "
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
    assert announcement(status, state, MigrationError("no route")) == words


def test_announcement_uncertain_handover_says_both_sides() -> None:
    assert announcement("failed", VmState.POSTMIGRATE, HandoverUncertainError("cut")) == (
        "migration failed; the destination may be running the VM, it stays stopped here: cut"
    )
