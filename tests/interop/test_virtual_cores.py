"""Dumps by virtual address in gdb and lldb: the guest's own pointers work, tags and all."""

import re
from itertools import pairwise
from pathlib import Path

import pytest

from tagalong.core import Space, open_core
from tagalong.snapshot import SaveOptions, save
from tagalong.soft import SoftMachine
from tests.support.debuggers import gdb, gdb_tags, lldb, lldb_tags, readelf
from tests.support.running_guest import RunningGuest

pytestmark = pytest.mark.usefixtures("debuggers")

PAGE = 4096
WINDOW = 0xFFFF_FF81_0000_0000


def pointer(page: int, granule: int) -> int:
    """Return the pointer that the guest `paged` wrote there, and through which."""
    address = WINDOW + page * PAGE + granule * 16
    return address & ~(0xF << 56) | (page + granule) % 16 << 56


@pytest.fixture(scope="module")
def cores(tmp_path_factory: pytest.TempPathFactory) -> dict[Space, Path]:
    """Return the guest `paged` in each space."""
    guest = RunningGuest(SoftMachine.create, "paged")
    guest.machine.resume()
    guest.wait_for("paged: granule", 1)
    folder = tmp_path_factory.mktemp("cores")
    paths = {space: folder / f"{space.name.lower()}.core" for space in Space}
    for space, path in paths.items():
        save(guest.machine, path, SaveOptions(space=space))
    guest.close()
    return paths


def test_gdb_follows_the_kernel_s_own_pointers_in_a_kernel_core(
    cores: dict[Space, Path],
) -> None:
    pointers = [pointer(page, granule) for page in (0, 3, 7) for granule in (0, 5, 100, 255)]

    words = gdb(cores[Space.KERNEL], [f"x/1gx {each:#x}" for each in pointers])
    tags = gdb_tags(cores[Space.KERNEL], pointers)

    assert re.findall(r":\t(0x[0-9a-f]{16})$", words, re.MULTILINE) == [
        f"{each:#018x}" for each in pointers
    ]
    assert tags == [each >> 56 & 0xF for each in pointers]


def test_gdb_checks_the_kernel_s_pointers_in_a_kernel_core(cores: dict[Space, Path]) -> None:
    right, wrong = pointer(2, 7), pointer(2, 7) ^ 1 << 56

    said = gdb(
        cores[Space.KERNEL],
        [f"memory-tag check (char*){each:#x}" for each in (right, wrong)],
    )

    assert f"Memory tags for address {right:#x} match (0x9)." in said
    assert (
        f"Logical tag (0x8) does not match the allocation tag (0x9) for address {wrong:#x}." in said
    )


def test_gdb_finds_no_tags_where_the_kernel_s_mapping_is_untagged(
    cores: dict[Space, Path],
) -> None:
    said = gdb(
        cores[Space.KERNEL],
        [f"memory-tag print-allocation-tag (char*){WINDOW + 8 * PAGE:#x}"],
    )

    assert "not in a region mapped with a memory tagging flag" in said


@pytest.mark.parametrize("space", [Space.USER, Space.PHYSICAL])
def test_debuggers_show_the_same_tags_in_user_and_physical_cores(
    cores: dict[Space, Path], space: Space
) -> None:
    # `paged` runs on an identity map: the last page of the window is the first of the pool.
    first = physical_of_page_7(cores)

    by_gdb = gdb_tags(cores[space], [first + 16 * granule for granule in range(32)])
    by_lldb = lldb_tags(cores[space], first, first + 512)
    said = lldb(cores[space], [f"memory read --format x --size 8 --count 1 {first:#x}"])

    assert by_gdb == [(7 + granule) % 16 for granule in range(32)]
    assert list(by_lldb.values()) == by_gdb
    assert f"{pointer(7, 0):#018x}" in said


def physical_of_page_7(cores: dict[Space, Path]) -> int:
    """Return where in RAM the window's page 7 is, by the core of physical addresses."""
    with open_core(cores[Space.PHYSICAL]) as core:
        ram = [region for region in core.regions if region.has_data]
        content = b"".join(core.data(each.address, each.size_bytes).tobytes() for each in ram)
    assert all(one.end == other.address for one, other in pairwise(ram))
    return ram[0].address + content.index(pointer(7, 0).to_bytes(8, "little"))


@pytest.mark.parametrize("space", Space)
def test_readelf_has_no_complaint(cores: dict[Space, Path], space: Space) -> None:
    said = readelf(cores[space])

    assert "Warning" not in said
    assert "Error" not in said
    assert said.count("AARCH64_MEMTAG") == (2 if space is Space.KERNEL else 1)
