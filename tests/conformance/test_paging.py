"""The guest's own page tables, walked from outside: what the guest `paged` wrote is found."""

import re

import numpy as np
import pytest

from tagalong.memory import Gpa
from tagalong.mte.tags import unpack
from tagalong.paging import Half, Mapping, Regime, Walk, walk
from tests.support.running_guest import Boot, RunningGuest


@pytest.fixture(params=["4K", "16K", "64K"])
def granule(request: pytest.FixtureRequest, machine_name: str) -> str:
    """Return a granule size; the embedded machine has 4K alone, and is asked for no other."""
    return "4K" if machine_name == "soft" else str(request.param)


def run(boot: Boot, granule: str) -> tuple[RunningGuest, dict[str, int]]:
    """Run `paged` until its tags are set; return it and the addresses that it printed."""
    guest = boot("paged", f"granule={granule}")
    guest.machine.resume()
    guest.wait_for("paged: granule", 1)
    guest.machine.pause()
    (line,) = guest.lines_with("paged: granule")
    return guest, {k: int(v, 0) for k, v in re.findall(r"(\w+)=(\S+)", line)}


def walk_half(guest: RunningGuest, half: Half) -> Walk:
    machine = guest.machine
    registers = machine.save_state().vcpus[0].registers
    regime = Regime.of(registers, half)
    return walk(machine.memory.read, machine.description.regions, regime)


def test_walk_of_ttbr1_finds_what_the_guest_mapped(boot: Boot, granule: str) -> None:
    guest, said = run(boot, granule)
    page, pool = said["granule"], said["pool"]
    ram = guest.machine.description.regions[0]

    found = walk_half(guest, Half.KERNEL)

    window = [
        Mapping(said["window"] + n * page, Gpa(pool + (7 - n) * page), page, is_tagged=True)
        for n in range(8)
    ]
    untagged = Mapping(said["window"] + 8 * page, Gpa(pool + 8 * page), page, is_tagged=False)
    in_block = min(ram.size_bytes, page * page // 8)
    block = Mapping(said["block"], Gpa(ram.gpa), in_block, is_tagged=True)
    assert found.mappings == [*window, untagged, block]
    assert found.unreadable_tables == []
    # The UART's page, and what of the block is behind the end of RAM.
    assert found.not_ram_bytes == page + page * page // 8 - in_block


def test_walk_of_ttbr1_leads_to_the_tags_and_data_that_the_guest_wrote(
    boot: Boot, granule: str
) -> None:
    guest, said = run(boot, granule)
    page = said["granule"]

    found = walk_half(guest, Half.KERNEL)

    assert len(found.mappings) >= 8
    for number, mapping in enumerate(found.mappings[:8]):
        tags = unpack(guest.machine.read_tags(mapping.gpa, page))
        expected = (number + np.arange(page // 16)) % 16
        assert np.array_equal(tags, expected)
        words = np.frombuffer(guest.machine.memory.read(mapping.gpa, page), "<u8")[::2]
        pointers = (
            np.uint64(mapping.address & ~(0xF << 56)) + np.arange(page // 16, dtype="u8") * 16
        )
        assert np.array_equal(words, pointers | expected.astype("u8") << np.uint64(56))


def test_walk_of_ttbr0_finds_the_identity_map_of_ram(boot: Boot) -> None:
    guest, _ = run(boot, "4K")
    ram = guest.machine.description.regions[0]

    found = walk_half(guest, Half.USER)

    assert found.mappings == [Mapping(ram.gpa, Gpa(ram.gpa), ram.size_bytes, is_tagged=True)]
    assert found.not_ram_bytes == (4 << 30) - ram.size_bytes
    assert found.tables == 1
