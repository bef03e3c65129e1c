"""Small cores of ours: a machine, its notes, and a file written in one go."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tagalong.core import CoreNotes, CoreSegment, CoreWriter, Space
from tagalong.files import WrittenFile
from tagalong.machine import (
    MachineDescription,
    MachineState,
    PowerState,
    RegionDescription,
    RegisterId,
    VcpuState,
)
from tagalong.machine import register_ids as ids
from tagalong.memory import Gpa

PAGE = 4096
PAGE_TAGS = PAGE // 32
RAM = 0x4000_0000
EL1H = 0x3C5
SCTLR = 0x0000_0900_30D0_1805  # TCF = sync
TCR = 0x0000_0060_B5A0_3520  # TBI0, TBI1


def registers(vcpu: int, **changes: int) -> dict[RegisterId, int]:
    """Return registers of a vCPU at EL1, every value different."""
    values = {ids.x(number): 0x100 * (vcpu + 1) + number for number in range(31)}
    values |= {
        ids.SP_EL0: 0xE0,
        ids.SP_EL1: 0x4010_0000 + vcpu,
        ids.PC: 0x4020_0000 + 4 * vcpu,
        ids.PSTATE: EL1H,
        ids.SCTLR_EL1: SCTLR,
        ids.TCR_EL1: TCR,
        ids.GCR_EL1: 0x1,
    }
    return values | {getattr(ids, name): value for name, value in changes.items()}


def notes(
    *sizes: int,
    vcpus: int = 1,
    mte_version: int = 3,
    page_size_bytes: int = PAGE,
    space: Space = Space.PHYSICAL,
    changes: Mapping[str, int] | None = None,
    more: Mapping[RegisterId, int] | None = None,
    vmcoreinfo: bytes | None = None,
) -> CoreNotes:
    """Return the notes of a machine with regions of these sizes, 16 MiB from start to start."""
    regions = tuple(
        RegionDescription(Gpa(RAM + number * 0x100_0000), size)
        for number, size in enumerate(sizes or (4 * PAGE,))
    )
    description = MachineDescription(page_size_bytes, vcpus, mte_version, regions)
    states = tuple(
        VcpuState(
            {**registers(number, **(changes or {})), **(more or {})},
            PowerState.OFF if number else PowerState.ON,
        )
        for number in range(vcpus)
    )
    return CoreNotes(
        description, MachineState(states, {"pl011": b"\x01\x02"}), space, vmcoreinfo=vmcoreinfo
    )


def segments_of(description: MachineDescription) -> list[CoreSegment]:
    return [
        CoreSegment(region.gpa, Gpa(region.gpa), region.size_bytes, description.mte_version > 0)
        for region in description.regions
    ]


def write_core(
    path: Path,
    about: CoreNotes,
    data: Sequence[NDArray[np.uint8]],
    tags: Sequence[NDArray[np.uint8]] = (),
    notes_room_bytes: int = 0,
) -> WrittenFile:
    """Write a physical core whose segments are the machine's regions."""
    description = about.description
    with CoreWriter(
        path,
        segments_of(description),
        page_size_bytes=description.page_size_bytes,
        notes_room_bytes=notes_room_bytes,
    ) as writer:
        for number, content in enumerate(data):
            writer.write_data(number, 0, content)
        for number, packed in enumerate(tags):
            writer.write_tags(number, 0, packed)
        return writer.commit(about)


def random_planes(size: int, seed: int = 1) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return data and packed tags of `size` bytes of memory in which no page is zero."""
    draw = np.random.default_rng(seed)
    data = draw.integers(1, 256, size, np.uint8)
    return data, draw.integers(1, 256, size // 32, np.uint8)


def used_parts(path: Path) -> list[tuple[int, int]]:
    """Return the parts of a file that are no holes, as [start, stop)."""
    found = []
    with path.open("rb") as file:
        size = path.stat().st_size
        at = 0
        while at < size:
            try:
                start = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:
                break
            at = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            found.append((start, at))
    return found
