"""Follows stage-1 tables and lists what they map, in the order of virtual addresses.

A whole table is looked at in one step, as an array of descriptors: the page tables of a
Linux guest map millions of pages. Tables are the guest's, so they are hostile input: levels bound
the depth; budgets in tables, mappings and mapped bytes bound the work and the size of the dump that
would follow.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tagalong.errors import AddressError, TranslationError
from tagalong.machine import RegionDescription
from tagalong.memory import Gpa
from tagalong.paging.regime import Regime

ReadMemory = Callable[[Gpa, int], bytes]

_VALID: Final = np.uint64(1)
_TABLE_OR_PAGE: Final = np.uint64(2)
_LEAF_LEVEL: Final = 3
_NORMAL_TAGGED: Final = 0xF0
_DESCRIPTOR_BYTES: Final = 8
_ADDRESS_BITS: Final = 48
_LARGE_ADDRESS_BITS: Final = 50
_GRANULE_64K: Final = 16


@dataclass(frozen=True, slots=True)
class Mapping:
    """Virtual addresses [address, address + size_bytes), mapped to RAM from `gpa` on.

    `address` has no tag bits. `is_tagged`: the memory type is Normal Tagged, so that the
    guest's loads and stores there can be checked and its LDG sees the tags.
    """

    address: int
    gpa: Gpa
    size_bytes: int
    is_tagged: bool

    @property
    def end(self) -> int:
        """Return the first virtual address after it."""
        return self.address + self.size_bytes


@dataclass(frozen=True)
class Budget:
    """How much a walk can find at most; a working guest stays far below.

    `tables`: tables looked at, one that is reached twice counts twice. `mapped_bytes`: RAM
    that is mapped, once for each mapping. `mappings`: pieces contiguous in both spaces.
    """

    tables: int
    mapped_bytes: int
    mappings: int

    @classmethod
    def of_ram(cls, regions: Sequence[RegionDescription], granule_bytes: int) -> "Budget":
        """Return the budget for a guest with this RAM.

        A guest has no more tables than pages, and Linux maps its RAM about three times: the
        linear map, the kernel's image, vmalloc. Whatever the RAM that a snapshot claims, the
        mappings take some 400 MiB at most: a process of 8 GiB that has no two pages side by
        side has as many.
        """
        ram_bytes = sum(region.size_bytes for region in regions)
        pages = ram_bytes // granule_bytes
        tables = max(1 << 10, min(1 << 20, pages))
        mappings = max(1 << 12, min(1 << 21, 4 * pages))
        return cls(tables, mapped_bytes=16 * ram_bytes, mappings=mappings)


@dataclass
class Walk:
    """What a walk found.

    `mappings`: in ascending order of address. `tables`: how many were looked at.
    `unreadable_tables`: gpas of tables that are not in RAM. `mapped_bytes`: RAM, once for each
    mapping. `not_ram_bytes`: what is mapped to something else, devices for instance.
    """

    mappings: list[Mapping] = field(default_factory=list)
    tables: int = 0
    unreadable_tables: list[Gpa] = field(default_factory=list)
    mapped_bytes: int = 0
    not_ram_bytes: int = 0


def walk(
    read: ReadMemory,
    regions: Sequence[RegionDescription],
    regime: Regime,
    budget: Budget | None = None,
) -> Walk:
    """Return everything that `regime` maps to guest RAM.

    `read(gpa, length)` returns guest memory or raises AddressError. Pages whose access flag
    is clear count as mapped: that flag is the guest's own bookkeeping. Raises
    TranslationError if the tables go beyond `budget`, by default `Budget.of_ram`.

    >>> regime = Regime.of(machine.vcpus[0].save().registers, Half.KERNEL)  # doctest: +SKIP
    >>> walk(machine.memory.read, machine.description.regions, regime)  # doctest: +SKIP
    """
    budget = budget or Budget.of_ram(regions, regime.granule_bytes)
    walker = _Walker(read, sorted(regions, key=lambda r: r.gpa), regime, budget)
    walker.visit(regime.table, regime.first_level, regime.lowest_address)
    return walker.found


def translate(
    read: ReadMemory, regions: Sequence[RegionDescription], regime: Regime, address: int
) -> Mapping | None:
    """Return the page or block that maps `address`, as far as it is RAM; None if nothing does.

    `address`: of the regime's half, without tag bits. `read` and `regions` as for `walk`; a table
    that is not in RAM maps nothing.

    >>> translate(machine.memory.read, regions, regime, 0xFFFF_8000_8000_0000)  # doctest: +SKIP
    """
    walker = _Walker(read, regions, regime, Budget.of_ram(regions, regime.granule_bytes))
    if not 0 <= address - regime.lowest_address < 1 << regime.input_bits:
        return None
    walker.look_up(address)
    return next((m for m in walker.found.mappings if m.address <= address < m.end), None)


class _Walker:
    def __init__(
        self,
        read: ReadMemory,
        regions: Sequence[RegionDescription],
        regime: Regime,
        budget: Budget,
    ) -> None:
        self.found = Walk()
        self._read = read
        self._regions = regions
        self._regime = regime
        self._budget = budget

    def visit(self, table: Gpa, level: int, address: int) -> None:
        """Look at the table that translates from `address` on; the level bounds the depth."""
        descriptors = self._descriptors(table, level)
        if descriptors is None:
            return
        shift = self._regime.shift(level)
        is_leaf, is_table = self._kinds(descriptors, level)
        outputs = self._outputs(descriptors)
        tagged = self._is_tagged(descriptors)
        # In order of address: a run of leaves, a table, a run of leaves...
        for first, stop in _stretches(is_leaf, is_table):
            start = address + (first << shift)
            if is_table[first]:
                self.visit(Gpa(int(outputs[first])), level + 1, start)
                continue
            size = np.uint64((1 << shift) - 1)
            leaves = outputs[first:stop] & ~size
            for at, count in _contiguous(leaves, tagged[first:stop], 1 << shift):
                gpa, bytes_ = int(leaves[at]), count << shift
                self._map(start + (at << shift), gpa, bytes_, is_tagged=bool(tagged[first + at]))

    def look_up(self, address: int) -> None:
        """Follow the tables to the one page or block that maps `address`."""
        table, level = self._regime.table, self._regime.first_level
        while True:
            descriptors = self._descriptors(table, level)
            if descriptors is None:
                return
            shift = self._regime.shift(level)
            index = (address - self._regime.lowest_address) >> shift & descriptors.size - 1
            one = descriptors[index : index + 1]
            is_leaf, is_table = self._kinds(one, level)
            output = int(self._outputs(one)[0])
            if is_leaf[0]:
                start, gpa = address >> shift << shift, output >> shift << shift
                self._map(start, gpa, 1 << shift, is_tagged=bool(self._is_tagged(one)[0]))
            if not is_table[0]:
                return
            table, level = Gpa(output), level + 1

    def _descriptors(self, table: Gpa, level: int) -> NDArray[np.uint64] | None:
        self.found.tables += 1
        self._require(self.found.tables, self._budget.tables, "tables looked at")
        try:
            content = self._read(table, self._regime.entries(level) * _DESCRIPTOR_BYTES)
        except AddressError:
            self.found.unreadable_tables.append(table)
            return None
        return np.frombuffer(content, "<u8")

    def _kinds(
        self, descriptors: NDArray[np.uint64], level: int
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Return which descriptors map memory, and which point to a table."""
        is_valid = descriptors & _VALID != 0
        bit1 = descriptors & _TABLE_OR_PAGE != 0
        if level == _LEAF_LEVEL:
            return is_valid & bit1, np.zeros_like(is_valid)
        blocks = is_valid & ~bit1
        return blocks & self._regime.has_blocks(level), is_valid & bit1

    def _outputs(self, descriptors: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """Return the output addresses in descriptors (D8.3.1, D8.3.2)."""
        low = self._regime.granule_bits
        large = self._regime.is_large
        is_64k = low == _GRANULE_64K
        high = _LARGE_ADDRESS_BITS if large and not is_64k else _ADDRESS_BITS
        address = descriptors & np.uint64((1 << high) - (1 << low))
        if large and is_64k:  # bits 15:12 are bits 51:48
            address |= (descriptors >> np.uint64(12) & np.uint64(0xF)) << np.uint64(48)
        elif large:  # bits 9:8 are bits 51:50
            address |= (descriptors >> np.uint64(8) & np.uint64(3)) << np.uint64(50)
        return address

    def _is_tagged(self, descriptors: NDArray[np.uint64]) -> NDArray[np.bool_]:
        attributes = self._regime.memory_attributes
        by_index = [attributes >> 8 * index & 0xFF == _NORMAL_TAGGED for index in range(8)]
        index = descriptors >> np.uint64(2) & np.uint64(7)
        tagged: NDArray[np.bool_] = np.array(by_index)[index.astype(np.intp)]
        return tagged

    def _map(self, address: int, gpa: int, size_bytes: int, *, is_tagged: bool) -> None:
        """Keep the parts of a mapping that are RAM."""
        in_ram = 0
        if gpa >> self._regime.output_bits:
            self.found.not_ram_bytes += size_bytes
            return
        for region in self._regions:
            start = max(gpa, region.gpa)
            stop = min(gpa + size_bytes, region.gpa + region.size_bytes)
            if start < stop:
                part = Mapping(address + start - gpa, Gpa(start), stop - start, is_tagged)
                self._append(part)
                in_ram += stop - start
        self.found.not_ram_bytes += size_bytes - in_ram

    def _append(self, mapping: Mapping) -> None:
        mappings = self.found.mappings
        self.found.mapped_bytes += mapping.size_bytes
        self._require(self.found.mapped_bytes, self._budget.mapped_bytes, "bytes of RAM mapped")
        if mappings and _continues(mappings[-1], mapping):
            last = mappings.pop()
            mapping = Mapping(
                last.address, last.gpa, last.size_bytes + mapping.size_bytes, last.is_tagged
            )
        mappings.append(mapping)
        self._require(len(mappings), self._budget.mappings, "separate mappings")

    def _require(self, count: int, limit: int, what: str) -> None:
        if count > limit:
            raise TranslationError(
                f"the tables from gpa {self._regime.table:#x} on are not those of a working guest: "
                f"more than {limit:#x} {what}"
            )


def _continues(last: Mapping, mapping: Mapping) -> bool:
    return (
        last.end == mapping.address
        and last.gpa + last.size_bytes == mapping.gpa
        and last.is_tagged is mapping.is_tagged
    )


def _stretches(
    is_leaf: NDArray[np.bool_], is_table: NDArray[np.bool_]
) -> Iterator[tuple[int, int]]:
    """Yield [first, stop) of each run of leaves and of each single table, in order."""
    kinds = is_leaf.astype(np.int8) + 2 * is_table.astype(np.int8)
    edges = np.flatnonzero((kinds[1:] != kinds[:-1]) | is_table[1:]) + 1
    starts = [0, *edges.tolist()]
    for first, stop in zip(starts, [*edges.tolist(), kinds.size], strict=True):
        if kinds[first]:
            yield first, stop


def _contiguous(
    gpas: NDArray[np.uint64], tagged: NDArray[np.bool_], unit: int
) -> Iterator[tuple[int, int]]:
    """Yield first and count of each run of leaves that continue each other."""
    follows = (gpas[1:] == gpas[:-1] + np.uint64(unit)) & (tagged[1:] == tagged[:-1])
    starts = [0, *(np.flatnonzero(~follows) + 1).tolist()]
    for first, stop in zip(starts, [*starts[1:], gpas.size], strict=True):
        yield first, stop - first
