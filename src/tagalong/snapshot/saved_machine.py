"""The whole machine that a core holds: its notes, its pages, and where they are in the file."""

from pathlib import Path

from tagalong.core import Core, CoreNotes, Space
from tagalong.core.pages import CorePages
from tagalong.errors import CoreError
from tagalong.machine import MachineDescription
from tagalong.memory import RegionSource


class SavedMachine:
    """The machine in a core that `tagalong snapshot` or `dump` wrote.

    `notes`: what the core says about it. `pages`: its memory, a range for each region.

    Raises CoreError if there is no machine in the core, or not all of its memory: the core of
    a process, or a dump of virtual addresses. Raises MalformedCoreError for a damaged one.
    """

    def __init__(self, core: Core, path: Path) -> None:
        notes = core.machine
        if notes is None:
            raise CoreError(f"{path} holds no machine: tagalong did not write it; give a snapshot")
        if notes.space is not Space.PHYSICAL:
            raise CoreError(
                f"{path} is a dump of {notes.space.name.lower()} addresses and does not hold the "
                "whole machine; give a snapshot, or a dump of physical addresses"
            )
        self.notes: CoreNotes = notes
        self.pages = CorePages(core, path)
        self._core = core

    @property
    def description(self) -> MachineDescription:
        """Return what machine it is."""
        return self.notes.description

    @property
    def has_tags(self) -> bool:
        """Return whether the machine has tags, so that the core must have them."""
        return self.description.mte_version != 0

    def require_complete(self) -> None:
        """Raise what reading would raise if anything of RAM is missing; read nothing."""
        for each in self.pages.memory.ranges:
            self._core.require_data(each.address, each.size_bytes)
            if each.has_tags:
                self._core.require_tags(each.address, each.size_bytes)

    def region_sources(self) -> list[RegionSource] | None:
        """Return where each region's planes are in the file, None if they cannot be mapped.

        They can where each is one segment of a plain file.
        """
        sources = []
        for number in range(len(self.pages.memory.ranges)):
            data, tags = self.pages.data_range(number), self.pages.tag_range(number)
            if data is None or tags is None or not (data.is_mappable and tags.is_mappable):
                return None
            sources.append(RegionSource(data, tags))
        return sources
