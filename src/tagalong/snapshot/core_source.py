"""The memory of a machine in a core file, as a source of another core or of a machine."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tagalong.binary.elf import ProgramHeader
from tagalong.core import Core, CoreNotes, Space
from tagalong.errors import AddressError, CoreError, NotInCoreError
from tagalong.machine import MachineDescription, RegionDescription
from tagalong.memory import FileRange, Gpa, PageBitmap, RegionSource
from tagalong.mte import PACKED_RATIO


class CoreSource:
    """The machine in a core that `tagalong snapshot` or `dump` wrote; implements PageSource.

    Raises CoreError if there is no machine in it, or not all of its memory: the core of a
    process, or a dump of virtual addresses. Raises MalformedCoreError for a damaged one.
    """

    def __init__(self, core: Core, path: Path) -> None:
        notes = core.machine
        if notes is None:
            raise CoreError(f"{path} holds no machine: it is not a core of tagalong")
        if notes.space is not Space.PHYSICAL:
            raise CoreError(
                f"{path} is a dump of {notes.space.name.lower()} addresses and does not hold the "
                "whole machine: it takes a snapshot, or a dump of physical addresses"
            )
        self.notes: CoreNotes = notes
        self._core = core
        self._path = path

    @property
    def description(self) -> MachineDescription:
        """As PageSource."""
        return self.notes.description

    @property
    def has_tags(self) -> bool:
        """Return whether the machine has tags, so that the core must have them."""
        return self.description.mte_version != 0

    def populated_pages(self) -> list[PageBitmap]:
        """As PageSource."""
        count = len(self.description.regions)
        return [self.data_pages(number) | self.tag_pages(number) for number in range(count)]

    def data_pages(self, number: int) -> PageBitmap:
        """Return the pages of a region whose data are no hole of the file."""
        return self._pages(self.description.regions[number], self._core.loads, 1)

    def tag_pages(self, number: int) -> PageBitmap:
        """Return the pages of a region whose tags are no hole of the file."""
        segments = self._core.tag_segments
        return self._pages(self.description.regions[number], segments, PACKED_RATIO)

    def _pages(
        self, region: RegionDescription, segments: tuple[ProgramHeader, ...], ratio: int
    ) -> PageBitmap:
        page = self.description.page_size_bytes
        content = self._range(region, segments, ratio)
        whole = (0, region.size_bytes // ratio)
        extents = [whole] if content is None else content.extents()
        return PageBitmap.from_extents(region.size_bytes // page, extents, page // ratio)

    def data(self, gpa: Gpa, length_bytes: int) -> NDArray[np.uint8]:
        """As PageSource. Raises NotInCoreError, MalformedCoreError if the file has it not."""
        return self._core.data(gpa, length_bytes)

    def gather(self, ranges: NDArray[np.int64]) -> NDArray[np.uint8]:
        """As PageSource. Raises as `data`."""
        return np.concatenate([self.data(Gpa(gpa), length) for gpa, length in ranges.tolist()])

    def tags(self, gpa: Gpa, length_bytes: int) -> NDArray[np.uint8]:
        """As PageSource. Raises NoTagsError, MalformedCoreError if the file has them not."""
        return self._core.tags(gpa, length_bytes)

    def read(self, gpa: Gpa, length_bytes: int) -> bytes:
        """Return a copy of memory. Raises AddressError for what is not in the core."""
        try:
            return self._core.data(gpa, length_bytes).tobytes()
        except NotInCoreError as error:
            raise AddressError(str(error)) from error

    def require_complete(self) -> None:
        """Raise what `data` and `tags` raise if anything of RAM is missing; reads nothing."""
        for region in self.description.regions:
            self._core.require_data(region.gpa, region.size_bytes)
            if self.has_tags:
                self._core.require_tags(region.gpa, region.size_bytes)

    def region_sources(self) -> list[RegionSource] | None:
        """Return where each region's planes are in the file, None if they cannot be mapped.

        They can where each is one segment of a plain file.
        """
        sources = []
        for region in self.description.regions:
            data = self._range(region, self._core.loads, 1)
            tags = self._range(region, self._core.tag_segments, PACKED_RATIO)
            if data is None or tags is None or not (data.is_mappable and tags.is_mappable):
                return None
            sources.append(RegionSource(data, tags))
        return sources

    def _range(
        self, region: RegionDescription, segments: tuple[ProgramHeader, ...], ratio: int
    ) -> FileRange | None:
        """Return where a plane of a region is, if it is one segment of a plain file."""
        fd = self._core.source.fd
        covering = [s for s in segments if s.address < region.gpa + region.size_bytes
                    and region.gpa < s.end]  # fmt: skip
        if fd is None or len(covering) != 1:
            return None
        (segment,) = covering
        size = region.size_bytes // ratio
        if (segment.address, segment.size_bytes) != (region.gpa, region.size_bytes):
            return None
        if segment.available < size:
            return None
        return FileRange(self._path, fd, segment.offset, size)
