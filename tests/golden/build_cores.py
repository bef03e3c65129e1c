"""Writes the golden core: python -m tests.golden.build_cores, once per version of the format.

It is frozen: what one release of tagalong wrote, every later one must read. LINUX_CORE is what
Linux 6.12 wrote in the lab when tests/programs/crash.c died there, packed with
`tagalong.core.pack`. LINUX_FILTERED_CORE is of such a process with coredump_filter 2 (shared
anonymous memory only): its heap had tags, and they were not written. KERNEL_CORE is CORE with a
note about a Linux kernel. QEMU_STREAM is what QEMU 10.0.2 wrote by `migrate file:`, compressed by
zstd: 4 MiB of RAM with the guest `paged`, two vCPUs, TCG, mte=on.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tagalong.core import CoreNotes
from tests.support.cores import PAGE, notes, write_core
from tests.support.gic_state import GIC, gic_state
from tests.support.vmcoreinfo import vmcoreinfo

FOLDER = Path(__file__).parent
CORE = FOLDER / "core-v3.core"
OLDER_CORES = [FOLDER / "core-v1.core", FOLDER / "core-v2.core"]
KERNEL_CORE = FOLDER / "core-v3-vmcoreinfo.core"
FRONT_CORE = FOLDER / "core-v3-front.core"
QEMU_STREAM = FOLDER / "qemu-10.0-paged.stream.zst"
LINUX_CORE = FOLDER / "linux-6.12-mte.core.zst"
LINUX_FILTERED_CORE = FOLDER / "linux-6.12-filter-2.core.zst"

SIZES = (2 * PAGE, PAGE)
NOTES_ROOM = 3 * PAGE


def golden_notes() -> CoreNotes:
    """Return two regions, two vCPUs and a GIC."""
    about = older_notes()
    return replace(
        about,
        description=replace(about.description, gic=GIC),
        state=replace(about.state, gic=gic_state(vcpus=2)),
    )


def kernel_notes() -> CoreNotes:
    """Return the same with what a Linux kernel says about itself."""
    return replace(golden_notes(), vmcoreinfo=vmcoreinfo())


def older_notes() -> CoreNotes:
    """Return what the cores of older versions, which had no GIC, were written with."""
    return notes(*SIZES, vcpus=2)


def golden_planes() -> tuple[list[NDArray[np.uint8]], list[NDArray[np.uint8]]]:
    """Return data and packed tags of each region; a page is zero."""
    data = [np.arange(size, dtype=np.uint32).astype(np.uint8) for size in SIZES]
    data[0][PAGE:] = 0
    tags = [np.arange(size // 32, dtype=np.uint32).astype(np.uint8) for size in SIZES]
    return data, tags


def main() -> None:
    for path, about in ((CORE, golden_notes()), (KERNEL_CORE, kernel_notes())):
        if not path.exists():  # else it is frozen
            write_core(path, about, *golden_planes())
    if not FRONT_CORE.exists():
        write_core(FRONT_CORE, kernel_notes(), *golden_planes(), NOTES_ROOM)


if __name__ == "__main__":
    main()
