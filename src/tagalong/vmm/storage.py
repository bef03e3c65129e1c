"""The joint to tagalong.snapshot: its values into ours, nothing else."""

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tagalong import snapshot
from tagalong.core import Space
from tagalong.machine import Machine, MachineDescription
from tagalong.machine.cpu_match import CpuPolicy
from tagalong.memory import RegionSource
from tagalong.snapshot import Restored, SaveOptions, SaveProgress
from tagalong.vmm.access_wish import describe_access
from tagalong.vmm.factory import ConsoleSink, build_arriving
from tagalong.vmm.save_record import SaveMoment, SaveRequest

SPACES = tuple(space.name.lower() for space in Space)
"""What a dump can be keyed by."""

_MS_PER_S = 1000.0


def store(
    machine: Machine,
    request: SaveRequest,
    progress: Callable[[SaveMoment], None],
    cancelled: threading.Event,
) -> Mapping[str, object]:
    """Write `machine` to a file as a saving.Storer does."""
    choice = None if request.access is None else machine.use_access(request.access)
    report = snapshot.save(
        machine,
        request.path,
        _options(request),
        progress=lambda moment: progress(_moment(moment)),
        cancel=cancelled,
    )
    return {**report.to_json(), **describe_access(choice)}


def convert(
    source: Path,
    request: SaveRequest,
    progress: Callable[[SaveMoment], None],
    cancelled: threading.Event,
) -> Mapping[str, object]:
    """Write the machine in the core `source` to another core. Raises as snapshot.dump_core."""
    report = snapshot.dump_core(
        source,
        request.path,
        _options(request),
        progress=lambda moment: progress(_moment(moment)),
        cancel=cancelled,
    )
    return report.to_json()


def load(
    path: Path,
    name: str,
    console: ConsoleSink | None,
    policy: CpuPolicy,
    check: Callable[[MachineDescription], None],
) -> Restored:
    """Return the machine of a snapshot, of kind `name`. Raises as snapshot.restore.

    `check` may refuse the machine that the snapshot describes.
    """

    def build(description: MachineDescription, sources: Sequence[RegionSource] | None) -> Machine:
        check(description)
        return build_arriving(name, description, console, policy, sources)

    return snapshot.restore(path, build)


def _options(request: SaveRequest) -> SaveOptions:
    return SaveOptions(
        space=Space[request.space.upper()],
        vcpu=request.vcpu,
        live=request.live,
        compress=request.compress,
        max_downtime_s=request.max_downtime_ms / _MS_PER_S,
    )


def _moment(moment: SaveProgress) -> SaveMoment:
    return SaveMoment(
        completed_bytes=moment.done_bytes,
        total_bytes=moment.total_bytes,
        stage=moment.stage.value,
        round_number=moment.round_number,
    )
