"""The status of a VM in words: a migration that comes here."""

from tagalong.cli.status_text import status_report
from tagalong.control.vm_control import VmStatus
from tagalong.qapi.failure import Failure
from tagalong.qapi.migration import MigrationInfo, MigrationStatus, SocketAddress
from tagalong.qapi.reports import ArrivalReport
from tagalong.qapi.saving import SaveInfo

ADDRESS = SocketAddress("inet", {"host": "h", "port": "7"})
ARRIVAL = ArrivalReport("id", was_running=True, acknowledged=True, digest=None, pages=1)
FAILURE = Failure("the link broke", "MigrationError", 40)


def test_status_of_a_destination_says_awaited_only_while_the_vm_is_awaited() -> None:
    cases = [
        (MigrationInfo(MigrationStatus.SETUP, socket_address=ADDRESS), "awaited at tcp:h:7"),
        (MigrationInfo(MigrationStatus.ACTIVE, socket_address=ADDRESS), "arriving at tcp:h:7"),
        (MigrationInfo(MigrationStatus.PAUSED, socket_address=ADDRESS), "arriving at tcp:h:7"),
        (
            MigrationInfo(MigrationStatus.COMPLETED, report=ARRIVAL, socket_address=ADDRESS),
            "completed: the VM has arrived",
        ),
        (MigrationInfo(MigrationStatus.COMPLETED, report=ARRIVAL), "completed: the VM has arrived"),
        (
            MigrationInfo(MigrationStatus.COMPLETED, socket_address=ADDRESS),
            "completed: the VM has arrived",
        ),
        (
            MigrationInfo(MigrationStatus.FAILED, failure=FAILURE, socket_address=ADDRESS),
            "failed: the link broke",
        ),
        (
            MigrationInfo(MigrationStatus.FAILED, socket_address=ADDRESS),
            "failed: the VM has not arrived",
        ),
    ]
    for info, said in cases:
        text = status_report(VmStatus("running", info, SaveInfo()))

        assert text == f"running (the guest runs)\n  migration   {said}", info
