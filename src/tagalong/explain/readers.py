"""Finds out what a file is, and reads it as crashes."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from tagalong.core.unpacked import open_any_core, starts_as_core
from tagalong.errors import CrashReportError
from tagalong.explain.apple import is_apple_report, read_apple
from tagalong.explain.apple_text import is_apple_text, read_apple_text
from tagalong.explain.crash import Crash
from tagalong.explain.guest import read_guest
from tagalong.explain.kasan import is_kasan, read_kasan
from tagalong.explain.process_core import read_process_core
from tagalong.explain.report_text import lines_of, read_report
from tagalong.explain.running import dumped
from tagalong.explain.tombstone_proto import is_tombstone_proto, read_tombstone_proto
from tagalong.explain.tombstone_text import is_tombstone_text, read_tombstone_text

KNOWN_FORMS: Final = (
    "a core of a process or a guest, a tombstone, a log with reports of KASAN, or an Apple crash "
    "report of a tag fault"
)


@contextmanager
def open_crashes(path: Path, modules: Path | None = None) -> Iterator[list[Crash]]:
    """Yield the crashes in a file; their memory can be read inside the `with` statement.

    `path` may be the control socket of a VM: that is dumped, and runs on. `modules`: a folder with
    the programs and libraries of a process, or with a kernel's vmlinux or System.map.

    Raises HostError if the file cannot be read, MalformedCoreError for a damaged core,
    CrashReportError for a damaged report and for a file that is none; what `dumped` raises.
    """
    if path.is_socket():
        with dumped(path) as dump, open_crashes(dump, modules) as found:
            yield [replace(crash, name=str(path)) for crash in found]
        return
    if starts_as_core(path):
        with open_any_core(path) as core:
            if core.machine is None:
                yield [read_process_core(core, str(path), modules)]
            else:
                yield read_guest(core, path, modules)
        return
    yield read_reports(read_report(path), str(path))


def read_reports(raw: bytes, name: str) -> list[Crash]:
    """Return the crashes of a report of any form. Raises CrashReportError."""
    if is_apple_report(raw):
        return [read_apple(raw, name)]
    if is_kasan(raw):
        return read_kasan(lines_of(raw), name)
    if is_tombstone_text(raw):
        return [read_tombstone_text(lines_of(raw), name)]
    if is_apple_text(raw):
        return [read_apple_text(lines_of(raw), name)]
    if is_tombstone_proto(raw):
        return [read_tombstone_proto(raw, name)]
    raise CrashReportError(f"{name} has no form that is known: give {KNOWN_FORMS}")
