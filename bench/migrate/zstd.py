"""Migrations compressed by zstd, of what a Linux guest has in its RAM: ours and QEMU's."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median

import numpy as np
from numpy.typing import NDArray

from bench.migrate import ours, qemu
from bench.migrate.guest import PAGE_BYTES
from bench.migrate.sample import Sample
from bench.migrate.series import Contestants, require_room, sample
from bench.rows import Figure, Row
from bench.tags.heaps import linux_machine
from tagalong.migrate import Compression, CompressionMode, MigrationOptions

LEVELS = (1, 3)
CHANNELS = 2
_MIB = 1 << 20
_RAM_BYTES = 512 * _MIB


@dataclass(frozen=True)
class LinuxImage:
    """RAM of `ram_bytes` that is what a Linux guest has used of its RAM, again and again.

    `data` is longer than any window of the levels that are measured. Makes a guest, and raises
    SystemExit, as `linux_machine`.
    """

    ram_bytes: int
    data: NDArray[np.uint8]
    tags: NDArray[np.uint8]

    @classmethod
    def of_guest(cls, ram_bytes: int) -> "LinuxImage":
        """Boot the guest, and copy the pages of RAM that it has used."""
        machine = linux_machine()
        (region,) = machine.memory.regions
        pages = machine.populated_pages()[0].pages()
        data = np.empty(pages.size * PAGE_BYTES, np.uint8)
        region.read_pages_into(data, pages)
        tags = region.read_page_tags(pages).reshape(-1).copy()
        machine.close()
        return cls(ram_bytes, data, tags)

    def fill(self, data: NDArray[np.uint8]) -> None:
        """As Planes."""
        _repeat(self.data, data)

    def fill_tags(self, tags: NDArray[np.uint8]) -> None:
        """As Planes."""
        _repeat(self.tags, tags)


def _repeat(content: NDArray[np.uint8], plane: NDArray[np.uint8]) -> None:
    for at in range(0, plane.size, content.size):
        part = plane[at : at + content.size]
        part[:] = content[: part.size]


def rows(runs: int) -> Sequence[Row]:
    """Return the row of compressed migrations."""
    samples = measure(_RAM_BYTES, runs)
    figures = []
    for level in LEVELS:
        mine, theirs = samples[f"tagalong, {level}"], samples[f"QEMU, {level}"]
        rate = median(their.seconds / my.seconds for my, their in zip(mine, theirs, strict=True))
        size = median(wire_bytes(each) for each in theirs) / median(map(wire_bytes, mine))
        figures += [
            Figure(f"rate to QEMU's, level {level}", rate, at_least=1.2),
            Figure(f"ratio to QEMU's, level {level}", size, at_least=1.0),
            Figure("RAM to bytes sent", _RAM_BYTES / median(map(wire_bytes, mine))),
            Figure("rate", median(each.gb_per_s for each in mine), "GB/s"),
        ]
    how = (
        f"{_RAM_BYTES // _MIB} MiB of what a Linux guest has used of its RAM, with its tags, over "
        f"{CHANNELS} TCP connections and by multifd {CHANNELS}, medians of {runs} runs"
    )
    return [Row(8, tuple(figures), how)]


def wire_bytes(sample: Sample) -> int:
    """Return what data and tags took on the wire."""
    return sample.wire_bytes or (sample.data_bytes or 0) + (sample.tag_bytes or 0)


def measure(ram_bytes: int, runs: int) -> dict[str, list[Sample]]:
    """Return samples of both contestants at each level; raises SystemExit without QEMU."""
    image = LinuxImage.of_guest(ram_bytes)
    require_room(4, image)
    machine = ours.guest(image)
    contestants: Contestants = {}
    for level in LEVELS:
        compression = Compression(CompressionMode.ZSTD, level)
        options = MigrationOptions(channels=CHANNELS, compression=compression)
        setting = qemu.Setting(CHANNELS, zstd_level=level)
        contestants[f"tagalong, {level}"] = partial(ours.migrate, machine, options)
        contestants[f"QEMU, {level}"] = partial(qemu.migrate, image, setting)
    samples = sample(contestants, runs)
    machine.close()
    return samples
