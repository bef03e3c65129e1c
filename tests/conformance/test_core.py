"""The core of a guest has what the guest wrote, on every machine."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tagalong.core import Core, open_core
from tagalong.core.check import check_core
from tagalong.machine import Machine, register_ids
from tests.support.bare import DATA, get, get_x
from tests.support.guest_core import (
    GRANULES,
    KINDS,
    SIZE,
    expected_tags,
    tagging_guest,
    word_of,
    write,
)


@pytest.fixture
def written(
    machine_name: str, opened: list[Machine], tmp_path: Path
) -> Callable[[], tuple[Machine, Core]]:
    """Return a function that gives a paused machine and its core, open."""

    def make() -> tuple[Machine, Core]:
        program = tagging_guest(KINDS[machine_name])
        opened.append(program.machine)
        write(program.machine, tmp_path / "vm.core")
        return program.machine, open_core(tmp_path / "vm.core")

    return make


def test_core_has_the_tags_and_data_that_the_guest_wrote(
    written: Callable[[], tuple[Machine, Core]],
) -> None:
    _, core = written()
    with core:
        words = core.data(DATA, SIZE).view("<u8")[::2]

        assert np.array_equal(core.granule_tags(DATA, SIZE), expected_tags())
        assert words.tolist() == [word_of(granule) for granule in range(GRANULES)]
        assert check_core(core).is_clean


def test_core_has_the_state_and_registers_of_the_machine(
    written: Callable[[], tuple[Machine, Core]],
) -> None:
    machine, core = written()
    with core:
        (vcpu,) = core.vcpus
        about = core.machine

    assert about is not None
    assert about.description == machine.description
    assert about.state == machine.save_state()
    assert vcpu.x == tuple(get_x(machine, number) for number in range(31))
    assert vcpu.pc == get(machine, register_ids.PC)
    assert vcpu.sp == get(machine, register_ids.SP_EL1)
