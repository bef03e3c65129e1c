"""Writes a core of a machine that stands still: from another core, or from any other source.

A core is keyed by other addresses, compressed or plain; the machine can be one that another VMM
runs or has saved.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tagalong.core import CoreNotes, CoreWriter, Space, open_core, room_for_notes
from tagalong.files import WrittenFile, require_file_name
from tagalong.machine import MachineDescription, MachineState, PageSource
from tagalong.progress import CancelToken, ProgressCallback
from tagalong.snapshot.layout import MemoryLayout, physical_layout, virtual_layout
from tagalong.snapshot.options import SaveOptions
from tagalong.snapshot.pages import PageCopier
from tagalong.snapshot.report import SaveMonitor, SaveProgress, SaveReport, SaveStage
from tagalong.snapshot.saved_machine import SavedMachine
from tagalong.snapshot.vmcoreinfo_search import VmcoreinfoSearch


@dataclass(frozen=True)
class StillMachine:
    """A machine that does not run while it is dumped, or whose changes do not matter.

    `pages`: its memory, a range for each region of `description`. `running`: whether it ran when
    the dump was asked for. `is_torn`: it runs while its pages are read, so they are of different
    moments; the core says so.
    """

    description: MachineDescription
    state: MachineState
    pages: PageSource
    running: bool = False
    is_torn: bool = False


def dump_core(
    source: Path,
    path: Path,
    options: SaveOptions | None = None,
    *,
    progress: ProgressCallback[SaveProgress] | None = None,
    cancel: CancelToken | None = None,
) -> SaveReport:
    """Write the machine in the core at `source` to a core at `path`, keyed by another space.

    Raises CoreError if `source` does not hold a whole machine, NotInCoreError, NoTagsError or
    MalformedCoreError if a part of it is missing, and all that `save` raises; no file is
    written then.

    >>> options = SaveOptions(space=Space.KERNEL)
    >>> dump_core(Path("vm.core"), Path("kernel.core"), options)  # doctest: +SKIP
    """
    require_file_name(path)
    with open_core(source) as core:
        memory = SavedMachine(core, source)
        memory.require_complete()
        notes = memory.notes
        machine = StillMachine(
            notes.description, notes.state, memory.pages, notes.running, notes.is_torn
        )
        return dump_machine(machine, path, options, progress=progress, cancel=cancel)


def dump_machine(
    machine: StillMachine,
    path: Path,
    options: SaveOptions | None = None,
    *,
    progress: ProgressCallback[SaveProgress] | None = None,
    cancel: CancelToken | None = None,
    when_read: Callable[[], None] | None = None,
) -> SaveReport:
    """Write `machine` to a core at `path`.

    `when_read` is called once all memory was read, before the file is finished; if it raises,
    there is no file. Raises what its pages raise, HostError if the file cannot be written,
    SnapshotCancelledError, UsageError and TranslationError if there is no such space; no file is
    written then.
    """
    options, monitor = options or SaveOptions(), SaveMonitor(progress, cancel)
    require_file_name(path)
    began = time.monotonic()
    layout = _layout(machine, options)
    with CoreWriter(
        path,
        layout.segments,
        page_size_bytes=layout.page_size_bytes,
        overwrite=options.overwrite,
        compress=options.compress,
        notes_room_bytes=room_for_notes(machine.description, machine.state),
    ) as writer:
        reading = _Reading(monitor, when_read or (lambda: None))
        copied_bytes, written = _write(machine, layout, writer, options, reading)
    return SaveReport(
        path=path.absolute(),
        space=options.space.name.lower(),
        ram_bytes=machine.description.ram_bytes,
        copied_bytes=copied_bytes,
        size_bytes=written.size_bytes,
        disk_bytes=written.disk_bytes,
        segments=len(layout.segments),
        duration_s=time.monotonic() - began,
        downtime_s=0.0,
        was_running=False,
        compressed=options.compress,
        unreadable_tables=len(layout.unreadable_tables),
        not_ram_bytes=layout.not_ram_bytes,
        is_torn=machine.is_torn,
    )


@dataclass(frozen=True)
class _Reading:
    """Whom to tell how far the reading is, and that it has ended."""

    monitor: SaveMonitor
    has_ended: Callable[[], None]


def _write(
    machine: StillMachine,
    layout: MemoryLayout,
    writer: CoreWriter,
    options: SaveOptions,
    reading: _Reading,
) -> tuple[int, WrittenFile]:
    """Write memory and notes; return how many bytes of data were looked at, and the file."""
    monitor = reading.monitor
    search = VmcoreinfoSearch(machine.pages)
    copier = PageCopier(machine.pages, writer, layout.pieces, monitor.advance, search)
    pages = machine.pages.populated_pages()
    total = copier.count(pages)
    monitor.enter(SaveStage.COPY, total)
    copier.copy(pages)
    notes = CoreNotes(
        machine.description,
        machine.state,
        options.space,
        options.vcpu if options.space is not Space.PHYSICAL else 0,
        machine.running,
        # A core of a process's addresses is no core of a kernel.
        None if options.space is Space.USER else search.result(machine.state),
        machine.is_torn,
    )
    writer.flush()  # part of it is still written from the machine's memory
    reading.has_ended()
    monitor.enter(SaveStage.FINISH)
    return total, writer.commit(notes, monitor.compress)


def _layout(machine: StillMachine, options: SaveOptions) -> MemoryLayout:
    if options.space is Space.PHYSICAL:
        return physical_layout(machine.description)
    return virtual_layout(
        machine.description, machine.state, machine.pages, options.space, options.vcpu
    )
