"""The row of what looks at all of a guest: digest, census, `check`, and the race explorer.

What reads all memory is measured beside the memory's bandwidth, which is a sum over the same pages
with as many threads as the process may use cores; what does not, at two sizes of a guest.
"""

import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.migrate.guest import Content
from bench.migrate.ours import guest
from bench.migrate.series import has_room
from bench.rows import Figure, Row
from tagalong.core import CoreNotes, CoreSegment, CoreWriter, open_core
from tagalong.core.check import check_core
from tagalong.machine import MachinePages
from tagalong.memory import Gpa
from tagalong.migrate.channel_count import usable_cpus
from tagalong.migrate.pages.digest import memory_digest
from tagalong.soft import SoftMachine
from tagalong.studies.race.options import RaceOptions, run_races
from tagalong.vmm.census import take_census

GIB = 1 << 30
_SIZES = (4 * GIB, 2 * GIB, GIB)
_SMALL = GIB // 16
_SAME = 1.25
"""So many times as long may take what is to be independent of size; files have noise."""


def rows(runs: int) -> Sequence[Row]:
    """Return the row. Raises SystemExit if the host has no memory for a guest of 1 GiB."""
    size = next((size for size in _SIZES if has_room(1, Content(size))), None)
    if size is None:
        raise SystemExit("not enough memory for a guest of 1 GiB")
    figures = [*_memory_figures(size, runs), *_check_figures(size, runs), *_race_figures(runs)]
    how = (
        f"{size // GIB} GiB of random data and tags; bandwidth: numpy's sum of 64-bit words over "
        f"the same planes with {usable_cpus()} threads; in turn, medians of {runs} runs"
    )
    return [Row(13, tuple(figures), how)]


def _memory_figures(size: int, runs: int) -> list[Figure]:
    machine = guest(Content(size))
    region, pages = machine.memory.regions[0], MachinePages(machine)
    actions = {
        "digest": lambda: memory_digest(pages, lambda: None, has_tags=True),
        "sum": lambda: read_all(region.raw_data, usable_cpus()),
        "sum by one": lambda: read_all(region.raw_data, 1),
        "census": lambda: take_census(pages),
        "sum of tags": lambda: read_all(region.raw_tags, usable_cpus()),
    }
    medians = _in_turn(actions, runs)
    machine.close()
    digest = (size + size // 32) / medians["digest"] / 1e9
    bandwidth = size / medians["sum"] / 1e9
    census = size / 32 / medians["census"] / 1e9
    of_tags = size / 32 / medians["sum of tags"] / 1e9
    return [
        Figure("digest, to memory bandwidth", digest / bandwidth, at_least=0.9),
        Figure("digest", digest, "GB/s"),
        Figure("memory", bandwidth, "GB/s"),
        Figure("memory, one core", size / medians["sum by one"] / 1e9, "GB/s"),
        Figure("census, to memory bandwidth", census / of_tags, at_least=0.9),
        Figure("census", medians["census"] * 1e3, "ms"),
    ]


def read_all(plane: NDArray[np.uint8], thread_count: int) -> None:
    """Read every byte of a plane, a whole number of words, by so many threads."""
    parts = np.array_split(plane.view(np.uint64), thread_count)
    threads = [threading.Thread(target=part.sum) for part in parts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _check_figures(size: int, runs: int) -> list[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        paths = {each: Path(folder) / f"{each}.core" for each in (_SMALL, size)}
        for each, path in paths.items():
            _write_core(path, each)
        actions = {str(each): _checker(path) for each, path in paths.items()}
        medians = _in_turn(actions, runs)
    small, large = medians[str(_SMALL)], medians[str(size)]
    return [
        Figure("check, to that of 64 MiB", large / small, at_most=_SAME),
        Figure("check", large * 1e3, "ms"),
    ]


def _checker(path: Path) -> Callable[[], object]:
    def check() -> None:
        with open_core(path) as core:
            check_core(core)

    return check


def _write_core(path: Path, size: int) -> None:
    """Write a core of a guest of that size, of whose RAM some has data and tags."""
    machine = SoftMachine.create(ram_bytes=_SMALL)
    gpa = Gpa(machine.memory.regions[0].gpa)
    description = SoftMachine.describe(ram_bytes=size)
    with CoreWriter(path, [CoreSegment(gpa, gpa, size, True)], page_size_bytes=4096) as core:
        core.write_data(0, 0, np.full(1 << 20, 0x5A, np.uint8))
        core.write_tags(0, 0, np.full(size // 32, 0x21, np.uint8))
        core.commit(CoreNotes(description, machine.save_state()))
    machine.close()


def _race_figures(runs: int) -> list[Figure]:
    def explore() -> None:
        run_races(RaceOptions(access="all"))

    seconds = _in_turn({"races": explore}, runs)["races"]
    return [Figure("race explorer, all strategies, whatever the size of a guest", seconds, "s")]


def _in_turn(actions: Mapping[str, Callable[[], object]], runs: int) -> dict[str, float]:
    """Return the median seconds of each action; all take turns, after a first time."""
    samples: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(runs + 1):
        for name, action in actions.items():
            began = time.perf_counter()
            action()
            samples[name].append(time.perf_counter() - began)
    return {name: statistics.median(each[1:]) for name, each in samples.items()}
