"""The frozen core: still read, and still written byte for byte."""

from pathlib import Path

import numpy as np
import pytest

from tagalong.core import open_core
from tagalong.core.check import check_core
from tests.golden.build_cores import (
    CORE,
    FRONT_CORE,
    KERNEL_CORE,
    NOTES_ROOM,
    OLDER_CORES,
    SIZES,
    golden_notes,
    golden_planes,
    kernel_notes,
    older_notes,
)
from tests.support.cores import write_core
from tests.support.vmcoreinfo import vmcoreinfo


@pytest.mark.parametrize("path", [*OLDER_CORES, CORE], ids=lambda path: path.name)
def test_golden_core_read_gives_what_was_written(path: Path) -> None:
    data, tags = golden_planes()
    with open_core(path) as core:
        for number, region in enumerate(golden_notes().description.regions):
            assert np.array_equal(core.data(region.gpa, SIZES[number]), data[number])
            assert np.array_equal(core.tags(region.gpa, SIZES[number]), tags[number])
        assert core.machine == (golden_notes() if path == CORE else older_notes())
        assert [vcpu.pc for vcpu in core.vcpus] == [0x4020_0000, 0x4020_0004]


def test_golden_core_with_a_kernel_is_read_and_written_again(tmp_path: Path) -> None:
    again = tmp_path / "again.core"

    write_core(again, kernel_notes(), *golden_planes())

    assert again.read_bytes() == KERNEL_CORE.read_bytes()
    with open_core(KERNEL_CORE) as core:
        assert core.machine == golden_notes()
        assert core.vmcoreinfo is not None
        assert core.vmcoreinfo.text == vmcoreinfo()


def test_golden_core_with_its_notes_in_front_is_read_and_written_again(tmp_path: Path) -> None:
    again = tmp_path / "again.core"

    write_core(again, kernel_notes(), *golden_planes(), NOTES_ROOM)

    assert again.read_bytes() == FRONT_CORE.read_bytes()
    with open_core(FRONT_CORE) as core, open_core(KERNEL_CORE) as other:
        assert core.machine == other.machine
        assert core.vcpus == other.vcpus
        for region in core.regions:
            assert np.array_equal(
                core.tags(region.address, region.size_bytes),
                other.tags(region.address, region.size_bytes),
            )
        verdict = check_core(core).kernel
    assert verdict is not None
    assert verdict.crash_reason is None


def test_golden_core_written_again_has_the_same_bytes(tmp_path: Path) -> None:
    again = tmp_path / "again.core"

    write_core(again, golden_notes(), *golden_planes())

    assert again.read_bytes() == CORE.read_bytes()
