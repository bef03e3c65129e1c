"""Everything in turn, again and again, so that ratios hold on a machine that others use too."""

import statistics
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from bench.migrate import ours, plain, qemu
from bench.migrate.guest import TAGS_SHARE, Content, Planes
from bench.migrate.sample import Figures, Sample
from tagalong.migrate import MigrationOptions
from tagalong.soft import SoftMachine

CHANNELS = (1, 2, 4)
_SPARE_BYTES = 1 << 30  # processes, and QEMU's own
QEMU_SETTINGS = (qemu.Setting(), qemu.Setting(2), qemu.Setting(4))

Contestants = dict[str, Callable[[], Sample]]


def measure(content: Content, runs: int, *, with_qemu: bool) -> dict[str, Figures]:
    """Return the medians of `runs` samples of each contestant, by name.

    QEMU comes after all others if the host has no memory for the source of both at once. Raises
    SystemExit if it has not enough for one migration.
    """
    require_room(2, content)
    machine = ours.guest(content)
    contestants = _ours_and_plain(machine)
    later = _qemus(content) if with_qemu else {}
    if has_room(2, content):  # besides the machine that is there now
        contestants, later = contestants | later, {}
    samples = sample(contestants, runs)
    machine.close()
    samples |= sample(later, runs)
    return {name: medians(each) for name, each in samples.items()}


def _ours_and_plain(machine: SoftMachine) -> Contestants:
    (region,) = machine.memory.regions
    contestants: Contestants = {}
    for channels in CHANNELS:
        options = MigrationOptions(channels=channels)
        contestants[f"plain copy, {channels}"] = partial(plain.copy, region.data, channels)
        contestants[f"tagalong, {channels}"] = partial(ours.migrate, machine, options)
    contestants["tagalong, auto"] = partial(ours.migrate, machine, MigrationOptions())
    return contestants


def _qemus(content: Content) -> Contestants:
    return {
        f"QEMU, {setting}": partial(qemu.migrate, content, setting) for setting in QEMU_SETTINGS
    }


def sample(contestants: Contestants, runs: int) -> dict[str, list[Sample]]:
    """Return `runs` samples of each contestant, taken in turn."""
    samples: dict[str, list[Sample]] = {name: [] for name in contestants}
    for name, run in _in_turn(contestants, runs):
        samples[name].append(run())
    return samples


def require_room(guests: int, content: Planes) -> None:
    """Raise SystemExit unless the host has memory for so many guests."""
    if not has_room(guests, content):
        raise SystemExit(
            f"not enough memory for {guests} guests of {content.ram_bytes >> 20} MiB: "
            f"{_available_bytes() >> 20} MiB are available"
        )


def has_room(guests: int, content: Planes) -> bool:
    """Return whether the host has memory for so many guests, with some to spare."""
    each = content.ram_bytes + content.ram_bytes // TAGS_SHARE
    return guests * each + _SPARE_BYTES < _available_bytes()


def _available_bytes() -> int:
    """Return MemAvailable (Linux, Documentation/filesystems/proc.rst)."""
    text = Path("/proc/meminfo").read_text()
    (line,) = (line for line in text.splitlines() if line.startswith("MemAvailable:"))
    return int(line.split()[1]) << 10


def _in_turn(contestants: Contestants, runs: int) -> Iterator[tuple[str, Callable[[], Sample]]]:
    with Progress(transient=True, console=Console(stderr=True)) as progress:
        task = progress.add_task("measuring", total=runs * len(contestants))
        for _ in range(runs):
            for name, run in contestants.items():
                progress.update(task, description=name)
                yield name, run
                progress.advance(task)


def medians(samples: list[Sample]) -> Figures:
    """Return the median of each figure."""

    def median(values: Sequence[float]) -> float:
        return statistics.median(values)

    downtimes = [each.downtime_ms for each in samples if each.downtime_ms is not None]
    tags = [each.tag_bytes for each in samples if each.tag_bytes is not None]
    return {
        "gb_per_s": median([each.gb_per_s for each in samples]),
        "seconds": median([each.seconds for each in samples]),
        "source_cpu_s": median([each.source_cpu_s for each in samples]),
        "destination_cpu_s": median([each.destination_cpu_s for each in samples]),
        "cpu_s_per_gib": median([each.cpu_s_per_gib for each in samples]),
        "downtime_ms": median(downtimes) if downtimes else None,
        "tags_share_of_data": median(tags) / samples[0].ram_bytes if tags else None,
    }


def ratios(figures: dict[str, Figures]) -> dict[str, float]:
    """Return what the figures say about the targets of the project."""

    def best(who: str, key: str, choose: Callable[[list[float]], float]) -> float:
        values = [each[key] for name, each in figures.items() if name.startswith(who)]
        return choose([value for value in values if value is not None])

    found: dict[str, float] = {}
    if not any(name.startswith("plain copy") for name in figures):
        return found
    for channels in CHANNELS:
        mine, plainly = figures[f"tagalong, {channels}"], figures[f"plain copy, {channels}"]
        found[f"rate, to plain copy over {channels}"] = _ratio(mine, plainly, "gb_per_s")
    found["rate of auto, to the best number"] = _value(figures["tagalong, auto"], "gb_per_s") / max(
        _value(figures[f"tagalong, {channels}"], "gb_per_s") for channels in CHANNELS
    )
    if any(name.startswith("QEMU") for name in figures):
        rate = best("tagalong", "gb_per_s", max)
        found["rate, to QEMU's best"] = rate / best("QEMU", "gb_per_s", max)
        found["rate, to QEMU's default"] = rate / _value(figures["QEMU, default"], "gb_per_s")
        found["CPU s/GiB, to QEMU's best"] = best("tagalong", "cpu_s_per_gib", min) / best(
            "QEMU", "cpu_s_per_gib", min
        )
        found["downtime, to QEMU's best"] = best("tagalong", "downtime_ms", min) / max(
            best("QEMU", "downtime_ms", min), 1.0
        )
    return found


def _value(figures: Figures, key: str) -> float:
    value = figures[key]
    assert value is not None
    return value


def _ratio(one: Figures, other: Figures, key: str) -> float:
    return _value(one, key) / _value(other, key)
