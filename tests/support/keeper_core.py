"""Whether the memory of tagkeeper in a core of its user addresses is as tagkeeper keeps it.

Tag and data of every granule follow from its number and from two counts in mappings beside it
(guests/linux/tagkeeper/memory.c). The counts are found by trying: the addresses at which they
explain the most granules.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tagalong.core import Core, Space, open_core
from tagalong.errors import TranslationError
from tagalong.snapshot import SaveOptions, dump_core

PAGE = 4096
GRANULE = 16

Numbers = NDArray[np.uint64]


@dataclass(frozen=True)
class Kept:
    """What was found: where, how many granules, and how many of them are wrong.

    A core of one moment has at most one wrong granule: the one that is just being changed.
    """

    address: int
    granules: int
    wrong_tags: int
    wrong_data: int
    tags: NDArray[np.uint8]


def find_kept(path: Path, vcpus: int, mib: int, folder: Path) -> Kept | None:
    """Return the memory of the tagkeeper that a vCPU of the physical core `path` runs, if any."""
    for vcpu in range(vcpus):
        user = folder / "user.core"
        try:
            dump_core(path, user, SaveOptions(space=Space.USER, vcpu=vcpu))
        except TranslationError:
            continue
        with open_core(user) as core:
            if (found := look(core, mib)) is not None:
                return found
    return None


def look(core: Core, mib: int) -> Kept | None:
    """Return the memory of thread 0 in a core of user addresses, None if it is not there."""
    size = mib << 20
    tagged = [each for each in core.regions if each.has_tags and each.size_bytes == size]
    if not tagged:
        return None
    address, granules = tagged[0].address, size // GRANULE
    tags = core.granule_tags(address, size)
    words = core.data(address, size).view("<u8").reshape(-1, 2)
    numbers = np.arange(granules, dtype=np.uint64)
    drawn, best = mix(numbers), [granules, granules]
    for turns in _windows(core, granules):
        wrong = (drawn + turns & np.uint64(15)) != tags
        best[0] = min(best[0], int(np.count_nonzero(wrong)))
        data = mix(numbers << np.uint64(8) | turns)
        bad = (words[:, 0] != data) | (words[:, 1] != ~data)
        best[1] = min(best[1], int(np.count_nonzero(bad)))
    return Kept(address, granules, best[0], best[1], tags)


def mix(value: Numbers) -> Numbers:
    """Return what memory.c makes of a number."""
    value = (value ^ value >> np.uint64(31)) * np.uint64(0x7FB5D329728EA185)
    value = (value ^ value >> np.uint64(27)) * np.uint64(0x81DADEF4BC2DD44D)
    return value ^ value >> np.uint64(33)


def _windows(core: Core, length: int) -> Iterator[Numbers]:
    for region in core.regions:
        if region.has_tags or not region.has_data:
            continue
        for at in range(0, region.size_bytes - length + 1, PAGE):
            yield core.data(region.address + at, length).astype(np.uint64)
