"""The embedded machine's RAM by strategy: the same tags and data, whichever it is."""

from collections.abc import Iterator

import numpy as np
import pytest

from tagalong.access import STRATEGIES
from tagalong.errors import AddressError, RunStateError, UsageError
from tagalong.memory import Gpa
from tagalong.soft import RAM_GPA, SoftMachine

PAGE = 4096


@pytest.fixture
def machine() -> Iterator[SoftMachine]:
    made = SoftMachine.create(ram_bytes=32 * PAGE)
    yield made
    made.close()


def test_auto_is_ioctl_and_says_why(machine: SoftMachine) -> None:
    choice = machine.use_access("auto")

    assert (choice.name, choice.reason) == (
        "ioctl",
        "never faults, needs no mapping with PROT_MTE and no state of the thread",
    )
    assert machine.use_access("ioctl").reason == "asked for"


@pytest.mark.parametrize("name", STRATEGIES)
def test_tags_and_data_written_by_a_strategy_are_there_for_all(
    machine: SoftMachine, name: str
) -> None:
    packed = np.arange(2 * PAGE // 32).astype(np.uint8)
    rows = np.stack([packed[:128], packed[128:]])[:, ::-1]
    machine.use_access(name)

    machine.write_tags(Gpa(RAM_GPA + PAGE), packed)
    machine.write_page_tags(0, np.array([5, 9], np.int64), rows)
    machine.memory.write(Gpa(RAM_GPA + 7), b"guest")
    seen = machine.read_tags(RAM_GPA, 4 * PAGE), machine.read_page_tags(0, np.array([1, 5, 9]))
    out = np.full((3, PAGE // 32), 0xEE, np.uint8)
    assert machine.read_page_tags(0, np.array([1, 5, 9]), out) is out
    machine.use_access("auto")

    np.testing.assert_array_equal(seen[0], machine.read_tags(RAM_GPA, 4 * PAGE))
    np.testing.assert_array_equal(seen[0][128:384], packed)
    np.testing.assert_array_equal(seen[1], np.vstack([packed[None, :128], rows]))
    np.testing.assert_array_equal(seen[1], out)
    assert machine.memory.read(Gpa(RAM_GPA + 6), 7) == b"\0guest\0"


@pytest.mark.parametrize("name", ["auto", "tco"])
def test_tags_of_no_pages_are_no_rows(machine: SoftMachine, name: str) -> None:
    none = np.empty(0, np.int64)
    machine.use_access(name)

    rows = machine.read_page_tags(0, none)
    machine.write_page_tags(0, none, rows)

    assert rows.shape == (0, PAGE // 32)


@pytest.mark.parametrize("name", ["auto", "tco"])
def test_misaligned_foreign_and_unknown_are_refused(machine: SoftMachine, name: str) -> None:
    machine.use_access(name)

    with pytest.raises(AddressError, match="gpa 0x40000010 is not a multiple of 0x20"):
        machine.read_tags(Gpa(RAM_GPA + 16), PAGE)
    with pytest.raises(AddressError, match="is not in one region of guest RAM"):
        machine.write_tags(Gpa(RAM_GPA + 32 * PAGE), np.zeros(128, np.uint8))
    with pytest.raises(UsageError, match="there is no access strategy 'best'"):
        machine.use_access("best")


def test_strategy_for_a_closed_machine_is_refused(machine: SoftMachine) -> None:
    machine.close()

    with pytest.raises(RunStateError, match="the machine is closed"):
        machine.use_access("tco")
