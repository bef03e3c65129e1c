"""A guest that writes tags and data of which everybody knows what they are, and its core.

    python -m tests.support.guest_core MACHINE PATH

writes the core of such a guest on the machine `soft` or `kvm`.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tagalong.core import CoreNotes, CoreSegment, CoreWriter
from tagalong.kvm import KvmMachine
from tagalong.machine import Machine
from tagalong.memory import Gpa
from tagalong.soft import SoftMachine
from tests.support import a64
from tests.support.bare import DATA, tagged
from tests.support.bare_program import BareProgram

GRANULES = 1024
SIZE = GRANULES * 16
KINDS: dict[str, Callable[..., Machine]] = {"soft": SoftMachine.create, "kvm": KvmMachine.create}


def tag_of(granule: int) -> int:
    """Return the tag of granule `granule` behind DATA: 1 to 15 in turn, as ADDG chooses."""
    return granule % 15 + 1 if granule < GRANULES else 0


def word_of(granule: int) -> int:
    """Return the 64-bit word at the start of that granule: how many are still to come."""
    return GRANULES - granule


def tagging_guest(create: Callable[..., Machine]) -> BareProgram:
    """Return a guest that has tagged and written its granules and waits, paused, in a loop.

    x1 points behind the last one, with the tag that would be next; GCR_EL1 excludes tag 0.
    """
    words = [
        a64.stg(1, 1),
        a64.str_(2, 1),
        a64.addg(1, 1, 16, 1),  # one granule further, the next tag
        a64.sub_imm(2, 2, 1),
        a64.cbz(2, -4 * 4, nonzero=1),
        a64.b(0),
    ]
    program = BareProgram(create, words, {1: tagged(DATA, 1), 2: GRANULES})
    return program.run_to_loop()


def write(machine: Machine, path: Path) -> None:
    """Write the core of a paused machine."""
    description = machine.description
    page = description.page_size_bytes
    segments = [
        CoreSegment(region.gpa, Gpa(region.gpa), region.size_bytes, has_tags=True)
        for region in description.regions
    ]
    with CoreWriter(path, segments, page_size_bytes=page) as writer:
        for number, (region, pages) in enumerate(
            zip(machine.memory.regions, machine.populated_pages(), strict=True)
        ):
            for first, count in pages.runs().tolist():
                start, size = first * page, count * page
                writer.write_data(number, start, region.read_data(start, size))
                tags = machine.read_tags(Gpa(region.gpa + start), size)
                writer.write_tags(number, start, tags)
        writer.commit(CoreNotes(description, machine.save_state()))


def expected_tags() -> NDArray[np.uint8]:
    """Return the tags that the guest wrote, one a byte."""
    return np.array([tag_of(granule) for granule in range(GRANULES)], np.uint8)


def main() -> None:
    name, path = sys.argv[1:]
    program = tagging_guest(KINDS[name])
    write(program.machine, Path(path))
    program.machine.close()


if __name__ == "__main__":
    main()
