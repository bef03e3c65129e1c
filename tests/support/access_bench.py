"""A paused machine with its host: what every test of an access strategy starts with.

What the tests set and look at goes past the strategies: data through the machine's memory,
tags through the machine.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tagalong.access import STRATEGIES, Host, Strategy
from tagalong.kvm import KvmMachine
from tagalong.machine import Machine
from tagalong.memory import Gpa
from tagalong.mte import PACKED_RATIO
from tagalong.soft import SoftMachine

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
        return STRATEGIES[name](self.host)

    def fill(self, page: int, count: int, seed: int = 1) -> tuple[bytes, NDArray[np.uint8]]:
        """Put random data and tags into pages; no granule has tag 0. Return both."""
        random = np.random.default_rng(seed)
        data = random.bytes(count * self.page)
        tags = random.integers(1, 16, (2, count * self.page // PACKED_RATIO), np.uint8)
        packed = tags[0] | tags[1] << 4
        self.machine.memory.write(self.at(page), data)
        self.machine.write_tags(self.at(page), packed)
        return data, packed

    def close(self) -> None:
        self.host.close()
        self.machine.close()


def native_bench() -> Bench:
    """Return a KVM guest's memory and this process."""
    machine = KvmMachine.create(ram_bytes=RAM_PAGES * 4096)
    page = machine.description.page_size_bytes
    return Bench(machine, machine.host, page, lambda number: _break(machine, number))


def _break(machine: KvmMachine, page: int) -> None:
    """Take all rights from a page of both views."""
    from tagalong.access import View, system  # noqa: PLC0415

    size = machine.description.page_size_bytes
    gpa = Gpa(machine.memory.regions[0].gpa + page * size)
    for view in View:
        system.protect(machine.host.address(view, gpa, size), size, 0)


def soft_bench() -> Bench:
    """Return the embedded machine's memory and its second CPU."""
    machine = SoftMachine.create(ram_bytes=RAM_PAGES * 4096)
    host, page = machine.host, machine.description.page_size_bytes
    gpa = machine.memory.regions[0].gpa
    return Bench(machine, host, page, lambda number: host.forbid(Gpa(gpa + number * page), page))


BENCHES: dict[str, Callable[[], Bench]] = {"native": native_bench, "soft": soft_bench}
