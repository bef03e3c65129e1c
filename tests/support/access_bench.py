"""A paused machine with its host: what every test of an access strategy starts with.

What the tests set and look at goes past the strategies: data through the machine's memory,
tags through the machine.
"""

import mmap
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from tagalong.access import STRATEGIES, Host, Need, Strategy, View, system, why_not
from tagalong.kvm import KvmMachine
from tagalong.machine import Machine
from tagalong.memory import Gpa
from tagalong.mte import PACKED_RATIO
from tagalong.mte.registers import TagCheckMode
from tagalong.soft import SoftMachine
from tagalong.studies.comparison.measure import checking

RAM_PAGES = 64


@dataclass
class Bench:
    """`gpa` is the first of RAM_PAGES pages of `page` bytes; `break_page` makes one fault."""

    machine: Machine
    host: Host
    page: int
    break_page: Callable[[int], None]

    @property
    def gpa(self) -> Gpa:
        return self.machine.memory.regions[0].gpa

    def at(self, page: int, offset: int = 0) -> Gpa:
        return Gpa(self.gpa + page * self.page + offset)

    def strategy(self, name: str) -> Strategy:
        """Return a strategy, or skip the test if this kernel has not what it needs."""
        if (reason := why_not(name, self.host)) is not None:
            pytest.skip(f"{name} {reason}")
        return STRATEGIES[name](self.host)

    def places(self, page: int) -> list[int]:
        """Return where a page is in each mapping: there is but one if RAM is anonymous."""
        if self.has_two_views:
            return [self.host.address(view, self.at(page), self.page) for view in View]
        region = self.machine.memory.regions[0]
        return [region.data.ctypes.data + page * self.page]

    @property
    def has_two_views(self) -> bool:
        return self.host.lacks(Need.SHARED_MEMORY) is None

    def data(self, gpa: Gpa, length_bytes: int) -> bytes:
        """Return guest data past all strategies."""
        with checking(self.host, TagCheckMode.NONE):
            return self.machine.memory.read(gpa, length_bytes)

    def put(self, gpa: Gpa, data: bytes) -> None:
        """Write guest data past all strategies."""
        with checking(self.host, TagCheckMode.NONE):
            self.machine.memory.write(gpa, data)

    def fill(self, page: int, count: int, seed: int = 1) -> tuple[bytes, NDArray[np.uint8]]:
        """Put random data and tags into pages; no granule has tag 0. Return both."""
        random = np.random.default_rng(seed)
        data = random.bytes(count * self.page)
        tags = random.integers(1, 16, (2, count * self.page // PACKED_RATIO), np.uint8)
        packed = tags[0] | tags[1] << 4
        self.put(self.at(page), data)
        self.machine.write_tags(self.at(page), packed)
        return data, packed

    def close(self) -> None:
        self.host.close()
        self.machine.close()


def native_bench() -> Bench:
    """Return a KVM guest's memory and this process."""
    machine = KvmMachine.create(ram_bytes=RAM_PAGES * mmap.PAGESIZE)
    page = machine.description.page_size_bytes
    bench = Bench(machine, machine.host, page, lambda number: _break(bench, number))
    return bench


def _break(bench: Bench, page: int) -> None:
    """Take all rights from a page of every view."""
    for place in bench.places(page):
        system.protect(place, bench.page, 0)


def soft_bench() -> Bench:
    """Return the embedded machine's memory and its second CPU."""
    machine = SoftMachine.create(ram_bytes=RAM_PAGES * 4096)
    host, page = machine.host, machine.description.page_size_bytes
    gpa = machine.memory.regions[0].gpa
    return Bench(machine, host, page, lambda number: host.forbid(Gpa(gpa + number * page), page))


BENCHES: dict[str, Callable[[], Bench]] = {"native": native_bench, "soft": soft_bench}
