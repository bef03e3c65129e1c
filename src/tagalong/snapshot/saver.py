"""Writes a machine to a core: a snapshot of it, or a dump for a debugger.

    copy        everything is copied while the guest is paused
  or, live:
    pre-copy    rounds of pages while the guest runs, until little enough remains
    stop        the guest is paused; its last pages follow
  then
    state       registers and devices; the guest runs again
    finish      notes, headers, fsync, rename

A live snapshot is a migration into a file: the same rounds over the same dirty log. A page that
changes again replaces what was written, and the state, known last, is last in the file. So the
file holds one moment, and there is no log to replay.

The file has its name when it is complete and on disk, or never. A guest that ran runs
again in any case, as soon as nothing of it is needed any more: before fsync.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tagalong.core import CoreNotes, CoreWriter, Space, room_for_notes
from tagalong.errors import CoreError, RunStateError
from tagalong.files import require_file_name
from tagalong.machine import Freezer, Machine, MachineFreezer, MachinePages, MachineState, RunState
from tagalong.memory import PageBitmap
from tagalong.progress import CancelToken, ProgressCallback
from tagalong.snapshot.layout import MemoryLayout, physical_layout, virtual_layout
from tagalong.snapshot.options import SaveOptions
from tagalong.snapshot.pages import PageCopier
from tagalong.snapshot.report import SaveMonitor, SaveProgress, SaveReport, SaveStage
from tagalong.snapshot.vmcoreinfo_search import VmcoreinfoSearch

# A guest that dirties memory as fast as the file is written is stopped after so many rounds.
_MAX_ROUNDS: Final = 30


def save(
    machine: Machine,
    path: Path,
    options: SaveOptions | None = None,
    *,
    progress: ProgressCallback[SaveProgress] | None = None,
    cancel: CancelToken | None = None,
    freezer: Freezer | None = None,
) -> SaveReport:
    """Write `machine` to a core at `path`.

    `freezer` stops the guest and lets it run again. `progress` is called in this thread.
    Afterwards, whether this succeeds or not, the machine runs if it ran before, unless it ended
    meanwhile.

    Raises HostError if the file cannot be written (nothing is under its name then, or what
    was there before), SnapshotCancelledError, CoreError if the guest ended meanwhile,
    UsageError and TranslationError if there is no such space.

    >>> save(machine, Path("vm.core"))  # doctest: +SKIP
    """
    options, monitor = options or SaveOptions(), SaveMonitor(progress, cancel)
    require_file_name(path)  # before the guest is paused for a file that cannot be
    return _Save(machine, path, options, monitor, freezer).run()


class _Save:
    def __init__(
        self,
        machine: Machine,
        path: Path,
        options: SaveOptions,
        monitor: SaveMonitor,
        freezer: Freezer | None,
    ) -> None:
        self._machine = machine
        self._freezer = freezer or MachineFreezer(machine)
        self._path = path
        self._options = options
        self._monitor = monitor
        self._source = MachinePages(machine, is_running=options.live)
        self._search = VmcoreinfoSearch(self._source)
        self._was_running = False
        self._is_frozen = False
        self._copied_bytes = 0
        self._rounds = 0
        self._stopped_at = 0.0
        self._downtime_s = 0.0
        self._converged = True
        self._began = time.monotonic()

    def run(self) -> SaveReport:
        if self._options.live:
            return self._save_live()
        with self._stopped():
            layout = self._layout()
            with self._writer(layout) as writer:
                copier = self._copier(writer, layout)
                self._copy(copier, self._source.populated_pages(), SaveStage.COPY)
                return self._finish(writer, layout, self._machine.save_state())

    def _layout(self) -> MemoryLayout:
        description, options = self._machine.description, self._options
        if options.space is Space.PHYSICAL:
            return physical_layout(description)
        state = self._machine.save_state()
        return virtual_layout(description, state, self._source, options.space, options.vcpu)

    def _writer(self, layout: MemoryLayout) -> CoreWriter:
        return CoreWriter(
            self._path,
            layout.segments,
            page_size_bytes=layout.page_size_bytes,
            overwrite=self._options.overwrite,
            compress=self._options.compress,
            notes_room_bytes=room_for_notes(self._machine.description, self._machine.peek_state()),
        )

    def _copier(self, writer: CoreWriter, layout: MemoryLayout) -> PageCopier:
        return PageCopier(self._source, writer, layout.pieces, self._tick, self._search)

    # --- live ---

    def _save_live(self) -> SaveReport:
        layout = self._layout()
        with self._writer(layout) as writer, self._source as source:
            copier = self._copier(writer, layout)
            left = self._precopy(copier, source.changed_pages())
            with self._stopped():
                dirty = source.changed_pages()
                last = [before | since for before, since in zip(left, dirty, strict=True)]
                self._copy(copier, last, SaveStage.LAST_PAGES)
                return self._finish(writer, layout, self._machine.save_state())

    def _precopy(self, copier: PageCopier, pages: list[PageBitmap]) -> list[PageBitmap]:
        """Copy rounds of pages; return the pages that are left for the stop."""
        while True:
            began = time.monotonic()
            copied = self._copy(copier, pages, SaveStage.PRECOPY)
            duration_s = max(time.monotonic() - began, 1e-6)
            pages = self._source.changed_pages()
            left = copier.count(pages)
            # The rate of this round says what the next one takes: it writes the same pages.
            if left == 0 or left / max(copied, 1) * duration_s <= self._options.max_downtime_s:
                return pages
            if self._rounds >= _MAX_ROUNDS or self._machine.run_state is not RunState.RUNNING:
                self._converged = self._machine.run_state is not RunState.RUNNING
                return pages

    # --- both ---

    def _copy(self, copier: PageCopier, pages: Sequence[PageBitmap], stage: SaveStage) -> int:
        total = copier.count(pages)
        self._rounds += 1
        self._monitor.enter(stage, total, round_number=self._rounds)
        copier.copy(pages)
        return total

    def _tick(self, size_bytes: int) -> None:
        self._copied_bytes += size_bytes
        self._monitor.advance(size_bytes)

    @contextmanager
    def _stopped(self) -> Iterator[None]:
        """Keep the guest stopped until `_go_on`, or else to the end of the block."""
        self._stopped_at = time.monotonic()
        try:
            self._was_running = self._freezer.freeze()
        except RunStateError as error:
            raise CoreError(f"nothing was saved: {error}") from error
        self._is_frozen = True
        try:
            yield
        finally:
            self._go_on()

    def _go_on(self) -> None:
        if not self._is_frozen:
            return
        self._is_frozen = False
        self._freezer.thaw()
        if self._was_running:
            self._downtime_s = time.monotonic() - self._stopped_at

    def _finish(self, writer: CoreWriter, layout: MemoryLayout, state: MachineState) -> SaveReport:
        notes = CoreNotes(
            self._machine.description,
            state,
            self._options.space,
            self._options.vcpu if self._options.space is not Space.PHYSICAL else 0,
            running=self._was_running,
            # A core of a process's addresses is no core of a kernel.
            vmcoreinfo=None if self._options.space is Space.USER else self._search.result(state),
        )
        writer.flush()  # part of it is still written from guest RAM
        self._go_on()
        self._monitor.enter(SaveStage.FINISH)
        written = writer.commit(notes, self._monitor.compress)
        return SaveReport(
            path=self._path.absolute(),
            space=self._options.space.name.lower(),
            ram_bytes=self._machine.description.ram_bytes,
            copied_bytes=self._copied_bytes,
            size_bytes=written.size_bytes,
            disk_bytes=written.disk_bytes,
            segments=len(layout.segments),
            duration_s=time.monotonic() - self._began,
            downtime_s=self._downtime_s,
            was_running=self._was_running,
            rounds=self._rounds,
            converged=self._converged,
            compressed=self._options.compress,
            unreadable_tables=len(layout.unreadable_tables),
            not_ram_bytes=layout.not_ram_bytes,
        )
