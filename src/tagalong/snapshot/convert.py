"""Writes a core from another core: keyed by other addresses, compressed or plain."""

import time
from pathlib import Path

from tagalong.core import CoreNotes, CoreWriter, Space, open_core
from tagalong.files import require_file_name
from tagalong.progress import CancelToken, ProgressCallback
from tagalong.snapshot.layout import MemoryLayout, physical_layout, virtual_layout
from tagalong.snapshot.pages import PageCopier
from tagalong.snapshot.report import SaveMonitor, SaveProgress, SaveReport, SaveStage
from tagalong.snapshot.save import SaveOptions
from tagalong.snapshot.saved_machine import SavedMachine


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
    options, monitor = options or SaveOptions(), SaveMonitor(progress, cancel)
    require_file_name(path)
    return _convert(source, path, options, monitor)


def _convert(source: Path, path: Path, options: SaveOptions, monitor: SaveMonitor) -> SaveReport:
    began = time.monotonic()
    with open_core(source) as core:
        memory = SavedMachine(core, source)
        memory.require_complete()
        layout = _layout(memory, options)
        page = memory.description.page_size_bytes
        with CoreWriter(
            path,
            layout.segments,
            page_size_bytes=page,
            overwrite=options.overwrite,
            compress=options.compress,
        ) as writer:
            copier = PageCopier(memory.pages, writer, layout.pieces, monitor.advance)
            pages = memory.pages.populated_pages()
            total = copier.count(pages)
            monitor.enter(SaveStage.COPY, total)
            copier.copy(pages)
            monitor.enter(SaveStage.FINISH)
            written = writer.commit(_notes(memory, options), monitor.compress)
    return SaveReport(
        path=path.absolute(),
        space=options.space.name.lower(),
        ram_bytes=memory.description.ram_bytes,
        copied_bytes=total,
        size_bytes=written.size_bytes,
        disk_bytes=written.disk_bytes,
        segments=len(layout.segments),
        duration_s=time.monotonic() - began,
        downtime_s=0.0,
        was_running=False,
        compressed=options.compress,
        unreadable_tables=len(layout.unreadable_tables),
        not_ram_bytes=layout.not_ram_bytes,
    )


def _layout(memory: SavedMachine, options: SaveOptions) -> MemoryLayout:
    if options.space is Space.PHYSICAL:
        return physical_layout(memory.description)
    state = memory.notes.state
    return virtual_layout(memory.description, state, memory.pages, options.space, options.vcpu)


def _notes(memory: SavedMachine, options: SaveOptions) -> CoreNotes:
    vcpu = options.vcpu if options.space is not Space.PHYSICAL else 0
    notes = memory.notes
    return CoreNotes(notes.description, notes.state, options.space, vcpu, notes.running)
