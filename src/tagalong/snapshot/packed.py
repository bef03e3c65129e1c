"""Snapshots in the compressed form: written plain beside it first.

A core is written in any order, a compressed one front to back; and the guest must not be
paused for as long as compressing takes.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from secrets import token_hex

from tagalong.core import pack
from tagalong.files import examine_output
from tagalong.snapshot.report import SaveMonitor, SaveReport, SaveStage

_NAME_BYTES = 100


def write_packed(
    path: Path, monitor: SaveMonitor, write: Callable[[Path], SaveReport], *, overwrite: bool
) -> SaveReport:
    """Let `write` make a plain core, and compress it to `path`; return the report of both.

    Raises what `write` raises, HostError if the compressed core cannot be written,
    SnapshotCancelledError. Nothing is left then; a process that is killed leaves the hidden
    file `.NAME.RANDOM.plain`.
    """
    began = time.monotonic()
    with _beside(path) as plain:
        report = write(plain)
        monitor.enter(SaveStage.COMPRESS, report.size_bytes)
        written = pack(
            plain,
            path,
            overwrite=overwrite,
            progress=lambda done, _: monitor.advance(done - monitor.moment.done_bytes),
        )
    return replace(
        report,
        path=path.absolute(),
        size_bytes=written.size_bytes,
        disk_bytes=written.disk_bytes,
        duration_s=time.monotonic() - began,
        compressed=True,
    )


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    target = examine_output(path).target
    plain = target.with_name(f".{target.name[:_NAME_BYTES]}.{token_hex(8)}.plain")
    try:
        yield plain
    finally:
        plain.unlink(missing_ok=True)
