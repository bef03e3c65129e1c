"""Makes a machine of a snapshot.

The file is mapped copy-on-write as far as the machine can: nothing is read before the guest
uses it, and nothing that the guest does reaches the file. What a machine cannot map is
copied, and only what is not zero.

Both planes of a region are page-aligned in the file, in the layout that the embedded machine runs
on, so its RAM is the file. Holes of the file are anonymous memory instead of a mapping: touching a
hole through a mapping allocates it on tmpfs, and a restored guest must leave no trace in its
snapshot. KVM's tags are in pages, so there they are written, where there are any.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tagalong.core import Core, open_core
from tagalong.errors import (
    MachineMismatchError,
    NoTagsError,
    NotInCoreError,
    RestoreError,
    StateError,
    UsageError,
)
from tagalong.machine import Machine, MachineDescription
from tagalong.machine.page_source import CHUNK_BYTES
from tagalong.memory import Gpa, PageBitmap, RegionSource
from tagalong.memory.bitmap import flag_runs
from tagalong.mte import PACKED_RATIO
from tagalong.mte.tags import zero_pages, zero_rows
from tagalong.progress import CancelToken, ProgressCallback
from tagalong.snapshot.report import SaveMonitor, SaveProgress, SaveStage
from tagalong.snapshot.saved_machine import SavedMachine

Build = Callable[[MachineDescription, Sequence[RegionSource] | None], Machine]
"""Makes the machine that a snapshot describes, on top of these sources if it can.

Raises MachineMismatchError or UsageError if it cannot be such a machine.
"""


_Job = tuple[int, PageBitmap, Callable[[Machine, int, int, int], None]]
"""A region's number, its pages that are to be filled, and what fills some of them."""


@dataclass(frozen=True)
class Restored:
    """A machine as it was when the snapshot was taken, paused; `was_running`: it ran then.

    `copied_bytes`: data that were copied because they could not be mapped.
    """

    machine: Machine
    was_running: bool
    copied_bytes: int


def restore(
    path: Path,
    build: Build,
    *,
    progress: ProgressCallback[SaveProgress] | None = None,
    cancel: CancelToken | None = None,
) -> Restored:
    """Return the machine of the snapshot at `path`, plain or compressed.

    A plain file must neither be changed nor cut short while the machine exists; it may be
    renamed, removed, or replaced by another.

    Raises RestoreError if machine or host cannot take it with all of its tags, HostError if
    the file cannot be read, MalformedCoreError if it is damaged, CoreError if it is no
    snapshot, SnapshotCancelledError. There is no machine then.

    >>> restore(Path("vm.core"), build).machine.resume()  # doctest: +SKIP
    """
    with open_core(path) as core:
        return _Restore(core, path, build, SaveMonitor(progress, cancel)).run()


class _Restore:
    def __init__(self, core: Core, path: Path, build: Build, monitor: SaveMonitor) -> None:
        self._source = SavedMachine(core, path)
        self._path = path
        self._build = build
        self._monitor = monitor
        self._copied_bytes = 0

    def run(self) -> Restored:
        with self._refusal():
            self._require_one_moment()
            self._source.require_complete()
            machine = self._build(self._source.description, self._source.region_sources())
        try:
            with self._refusal():
                jobs = self._jobs(machine)
                if jobs:  # which takes long: what load_state will refuse is to be said before it
                    machine.check_state(self._source.notes.state)
                self._fill(machine, jobs)
                machine.load_state(self._source.notes.state)
        except BaseException:
            machine.close()
            raise
        return Restored(machine, self._source.notes.running, self._copied_bytes)

    def _require_one_moment(self) -> None:
        if self._source.notes.is_torn:
            raise RestoreError(
                f"{self._path} cannot be restored: its guest ran while it was dumped, so its pages "
                "are of different moments; take a snapshot"
            )

    @contextmanager
    def _refusal(self) -> Iterator[None]:
        try:
            yield
        except NoTagsError as error:
            raise RestoreError(
                f"{self._path} lacks tags ({error}); without them its guest cannot run on"
            ) from error
        except (MachineMismatchError, NotInCoreError, StateError, UsageError) as error:
            raise RestoreError(f"{self._path} cannot be restored here: {error}") from error

    def _jobs(self, machine: Machine) -> list[_Job]:
        """Return what could not be mapped."""
        pages = self._source.pages
        jobs: list[_Job] = []
        for number, region in enumerate(machine.memory.regions):
            if not region.has_file_data:
                jobs.append((number, pages.data_pages(number), self._fill_data))
            if self._source.has_tags and not region.has_file_tags:
                jobs.append((number, pages.tag_pages(number), self._fill_tags))
        return jobs

    def _fill(self, machine: Machine, jobs: Sequence[_Job]) -> None:
        page = self._source.pages.memory.page_size_bytes
        self._monitor.enter(SaveStage.COPY, sum(wanted.count() for _, wanted, _ in jobs) * page)
        for number, wanted, fill in jobs:
            for first, count in _chunks(wanted, CHUNK_BYTES // page):
                fill(machine, number, first, count)
                self._monitor.advance(count * page)

    def _fill_data(self, machine: Machine, number: int, first: int, count: int) -> None:
        page = self._source.description.page_size_bytes
        content = self._source.pages.data(number, np.array([[first, count]], np.int64))
        base = machine.memory.regions[number].gpa + first * page
        for start, stop in _runs(~zero_rows(content, page), page):
            machine.memory.write(Gpa(base + start), content[start:stop])
            self._copied_bytes += stop - start

    def _fill_tags(self, machine: Machine, number: int, first: int, count: int) -> None:
        page = self._source.description.page_size_bytes
        packed = self._source.pages.tags(number, first, count)
        base = machine.memory.regions[number].gpa + first * page
        # A page whose tags are zero has zero tags already: writing them would copy the page.
        for start, stop in _runs(~zero_pages(packed, page), page):
            machine.write_tags(
                Gpa(base + start), packed[start // PACKED_RATIO : stop // PACKED_RATIO]
            )


def _chunks(pages: PageBitmap, most: int) -> Iterator[tuple[int, int]]:
    """Yield the runs of pages, first and number, those of more than `most` in parts."""
    for first, count in pages.runs().tolist():
        for start in range(first, first + count, most):
            yield start, min(most, first + count - start)


def _runs(flags: NDArray[np.bool_], page_bytes: int) -> Iterator[tuple[int, int]]:
    """Yield the byte ranges of the pages that are set."""
    for first, last in flag_runs(flags):
        yield first * page_bytes, last * page_bytes
