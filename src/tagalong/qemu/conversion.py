"""Makes a core of a file that QEMU saved a guest to."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tagalong.progress import CancelToken, ProgressCallback
from tagalong.qemu.saved_guest import open_saved
from tagalong.snapshot import SaveOptions, SaveProgress, SaveReport, dump_machine


@dataclass(frozen=True)
class QemuFile:
    """Where in `path` QEMU's stream is, and which block is the guest's RAM; see `open_saved`."""

    path: Path
    offset: int = 0
    block: str | None = None


@dataclass(frozen=True)
class Converted:
    """What became of a file; `has_tags`: the core has tags, because the stream had them."""

    report: SaveReport
    has_tags: bool
    vcpu_count: int

    def to_json(self) -> Mapping[str, object]:
        """Return the report with plain values; times in milliseconds."""
        return {**self.report.to_json(), "tags": self.has_tags, "vcpu_count": self.vcpu_count}


def convert(
    saved: QemuFile,
    path: Path,
    options: SaveOptions | None = None,
    *,
    progress: ProgressCallback[SaveProgress] | None = None,
    cancel: CancelToken | None = None,
) -> Converted:
    """Write the guest in a file of QEMU's `migrate file:` to a core at `path`.

    The core has RAM, tags if QEMU's TCG kept some, and the registers of all vCPUs. It cannot be
    restored: no machine of ours has QEMU's devices. Raises what `open_saved` and
    `snapshot.dump_machine` raise; no file is written then.

    >>> convert(QemuFile(Path("vm.migration")), Path("vm.core"))  # doctest: +SKIP
    """
    with open_saved(saved.path, offset=saved.offset, block=saved.block) as machine:
        report = dump_machine(machine, path, options, progress=progress, cancel=cancel)
        description = machine.description
        return Converted(report, description.mte_version != 0, description.vcpu_count)
