"""Calls tagalong.snapshot, which knows neither QMP nor run states."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from tagalong import snapshot
from tagalong.devices import DeviceModels
from tagalong.machine import Freezer, Machine, MachineDescription
from tagalong.machine.cpu_match import CpuPolicy
from tagalong.memory import RegionSource
from tagalong.qapi.reports import SaveResult
from tagalong.qapi.saving import SaveRequest
from tagalong.snapshot import Restored, SaveProgress
from tagalong.vmm.factory import build_arriving


def store(
    machine: Machine,
    request: SaveRequest,
    progress: Callable[[SaveProgress], None],
    cancelled: threading.Event,
    freezer: Freezer,
) -> SaveResult:
    """Write `machine` to a file as a saving.Storer does."""
    choice = None if request.access is None else machine.use_access(request.access)
    report = snapshot.save(
        machine,
        request.path,
        request.options(),
        progress=progress,
        cancel=cancelled,
        freezer=freezer,
    )
    return SaveResult(report, choice)


def load(
    path: Path,
    name: str,
    models: DeviceModels,
    policy: CpuPolicy,
    check: Callable[[MachineDescription], None],
) -> Restored:
    """Return the machine of a snapshot, of kind `name`. Raises as snapshot.restore.

    `check` may refuse the machine that the snapshot describes.
    """

    def build(description: MachineDescription, sources: Sequence[RegionSource] | None) -> Machine:
        check(description)
        return build_arriving(name, description, models, policy, sources)

    return snapshot.restore(path, build)
