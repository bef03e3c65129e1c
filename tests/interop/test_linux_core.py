"""A core that the lab's Linux writes for a process with MTE, read where it was written."""

from pathlib import Path

import pytest

from tagalong.core import open_core
from tagalong.core.check import check_core
from tagalong.errors import NoTagsError
from tests.support import linux_core
from tests.support.linux_core import PLAIN, TAGGED, TAGGED_BYTES


@pytest.mark.lab
def test_core_of_linux_is_read_with_its_tags(tmp_path: Path) -> None:
    path = linux_core.write(tmp_path)

    with open_core(path) as core:
        tags = core.granule_tags(TAGGED, TAGGED_BYTES)
        data = core.data(TAGGED, TAGGED_BYTES)
        plain = core.data(PLAIN, 4096)
        (vcpu,) = core.vcpus
        report = check_core(core)
        with pytest.raises(NoTagsError):
            core.tags(PLAIN, 4096)

    assert tags.tolist() == [linux_core.tag_of(n) for n in range(TAGGED_BYTES // 16)]
    assert data.tolist() == [linux_core.byte_of(n % 4096) for n in range(TAGGED_BYTES)]
    assert plain.tolist() == [linux_core.byte_of(n) for n in range(4096)]
    assert vcpu.signal == 11
    assert vcpu.tagged_address_control == linux_core.CONTROL
    assert report.is_clean
    assert core.machine is None
