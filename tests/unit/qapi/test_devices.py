"""Disks on the control socket."""

import pytest

from tagalong.errors import ControlError
from tagalong.qapi.devices import BlockInfo, BlockIoError

DISK = BlockInfo("disk0", "/srv/root.img", read_only=False, size_bytes=1 << 30, actual_bytes=4096)


def test_disk_survives_the_socket() -> None:
    assert BlockInfo.from_qmp(DISK.to_qmp()) == DISK


def test_disk_has_what_qemu_s_schema_demands() -> None:
    value = DISK.to_qmp()
    inserted = value["inserted"]

    assert {"device", "type", "removable", "locked"} <= value.keys()
    assert isinstance(inserted, dict)
    assert {
        "file", "ro", "drv", "backing_file_depth", "encrypted", "bps", "bps_rd", "bps_wr", "iops",
        "iops_rd", "iops_wr", "image", "cache", "write_threshold", "detect_zeroes",
    } <= inserted.keys()  # fmt: skip


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
        "device": "disk0",
        "node-name": "disk0",
        "operation": "write",
        "action": "report",
        "nospace": True,
        "reason": "No space left on device",
    }
    assert BlockIoError.from_event(error.to_event()) == error
