"""Disks on the control socket."""

import pytest

from tagalong.errors import ControlError
from tagalong.qapi.devices import BlockInfo, BlockIoError

DISK = BlockInfo("disk0", "/srv/root.img", read_only=False, size_bytes=1 << 30, actual_bytes=4096)


def test_disk_survives_the_socket() -> None:
    assert BlockInfo.from_qmp(DISK.to_qmp()) == DISK


def test_disk_that_makes_no_sense_is_refused_by_member() -> None:
    for wrong, message in (
        ({}, "query-block has no member 'inserted'"),
        ({**DISK.to_qmp(), "device": 7}, "query-block: 'device': expected a string"),
        ([], "query-block: expected an object"),
    ):
        with pytest.raises(ControlError) as caught:
            BlockInfo.from_qmp(wrong)
        assert message in str(caught.value)


def test_error_of_a_disk_is_an_event() -> None:
    error = BlockIoError("disk0", "write", no_space=True, reason="No space left on device")

    assert error.to_event() == {
        "qom-path": "/machine/peripheral/disk0",
        "device": "disk0",
        "node-name": "disk0",
        "operation": "write",
        "action": "report",
        "nospace": True,
        "reason": "No space left on device",
    }
    assert BlockIoError.from_event(error.to_event()) == error
