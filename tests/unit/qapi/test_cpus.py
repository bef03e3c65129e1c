"""vCPUs on the control socket."""

import pytest

from tagalong.errors import ControlError
from tagalong.qapi.cpus import CpuInfo


@pytest.mark.parametrize("cpu", [CpuInfo(0, 4711), CpuInfo(3, None)])
def test_vcpu_survives_the_socket(cpu: CpuInfo) -> None:
    assert CpuInfo.from_qmp(cpu.to_qmp()) == cpu


def test_vcpu_has_what_qemu_s_schema_demands() -> None:
    value = CpuInfo(2, 4711).to_qmp()

    assert value == {
        "cpu-index": 2,
        "qom-path": "/machine/unattached/device[2]",
        "thread-id": 4711,
        "props": {"core-id": 2},
        "target": "aarch64",
    }


def test_vcpu_that_makes_no_sense_is_refused_by_member() -> None:
    for wrong, message in (
        ({}, "query-cpus-fast has no member 'thread-id'"),
        ({**CpuInfo(0, 1).to_qmp(), "cpu-index": "0"}, "query-cpus-fast: 'cpu-index'"),
        ([], "query-cpus-fast: expected an object"),
    ):
        with pytest.raises(ControlError) as caught:
            CpuInfo.from_qmp(wrong)
        assert message in str(caught.value)
