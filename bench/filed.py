"""A guest to a file and back, by tagalong, by cp and by QEMU, in turn."""

import os
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from bench.migrate import ours, qemu_file
from bench.migrate.guest import TAGS_SHARE, Content
from tagalong.memory.reserve import reserve
from tagalong.migrate import MigrationOptions, listen, migrate_to, parse_address, receive_from
from tagalong.snapshot import restore, save
from tagalong.soft import SoftMachine

SYNCED = ", then fsync"
"""Behind a contestant that leaves a file in the page cache; a snapshot and a kept stream do not."""

Seconds = dict[str, list[float]]


@dataclass(frozen=True)
class FiledSamples:
    """Seconds of each run, by contestant: `to_file` writes, `from_file` loads."""

    to_file: Seconds = field(default_factory=dict)
    from_file: Seconds = field(default_factory=dict)


def ratio(seconds: Seconds, ours: str, theirs: str) -> float:
    """Return how much faster `ours` is, the median over the runs."""
    pairs = zip(seconds[theirs], seconds[ours], strict=True)
    return statistics.median(their / our for their, our in pairs)


def measure(folder: Path, content: Content, runs: int) -> FiledSamples:
    """Return samples of all contestants in `folder`, each run in turn.

    Every file is loaded with an empty page cache where it is on a disk: QEMU's, too. Each run
    begins with another contestant: which blocks of a disk a file gets makes it faster or slower.
    """
    samples = FiledSamples()
    machine = ours.guest(content)
    with qemu_file.SavedQemu.of(content) as qemu:
        steps = [
            partial(_snapshot_and_copy, folder, machine, samples),
            partial(_stream, folder, machine, content, samples),
            partial(_qemu, folder, qemu, content, samples, is_direct=False),
            partial(_qemu, folder, qemu, content, samples, is_direct=True),
        ]
        for number in range(runs):
            at = number % len(steps)
            for step in steps[at:] + steps[:at]:
                step()
    machine.close()
    return samples


def _snapshot_and_copy(folder: Path, machine: SoftMachine, samples: FiledSamples) -> None:
    core, copy = folder / "core", folder / "copy"
    _add(samples.to_file, "snapshot", _seconds(lambda: save(machine, core)))
    copied = _seconds(lambda: subprocess.run(["cp", core, copy], check=True))
    _add(samples.to_file, "cp", copied)
    _add(samples.to_file, f"cp{SYNCED}", copied + _synced(copy))
    copy.unlink()
    _add(samples.from_file, "restore, all read", _restored(core))
    core.unlink()


def _stream(folder: Path, machine: SoftMachine, content: Content, samples: FiledSamples) -> None:
    stream = folder / "stream"
    streamed = _seconds(lambda: migrate_to(f"file:{stream}", machine, MigrationOptions()))
    _add(samples.to_file, "migrate file:", streamed)
    _add(samples.from_file, "incoming file:", _incoming(stream, content))
    stream.unlink()


def _qemu(
    folder: Path,
    qemu: qemu_file.SavedQemu,
    content: Content,
    samples: FiledSamples,
    *,
    is_direct: bool,
) -> None:
    name, file = "QEMU, direct-io" if is_direct else "QEMU", folder / "qemu"
    saved, synced = qemu.save(file, is_direct=is_direct)
    _add(samples.to_file, name, saved)
    _add(samples.to_file, f"{name}{SYNCED}", synced)
    make_cold(file)
    _add(samples.from_file, name, qemu_file.load(file, content, is_direct=is_direct))
    file.unlink()


def _add(seconds: Seconds, name: str, value: float) -> None:
    seconds.setdefault(name, []).append(value)


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _synced(path: Path) -> float:
    """Bring a file to its disk; return how long that took."""
    descriptor = os.open(path, os.O_RDONLY)
    seconds = _seconds(lambda: os.fsync(descriptor))
    os.close(descriptor)
    return seconds


def make_cold(path: Path) -> None:
    """Empty the page cache of a file; one in tmpfs stays where it is."""
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def _incoming(path: Path, content: Content) -> float:
    """Return how long a stream takes to load, with the memory of the destination reserved."""
    make_cold(path)
    reserve(content.ram_bytes, lambda: False)
    reserve(content.ram_bytes // TAGS_SHARE, lambda: False)
    began = time.perf_counter()
    with listen(parse_address(f"file:{path}")) as listener:
        arrival = receive_from(listener, SoftMachine.from_description)
    seconds = time.perf_counter() - began
    arrival.machine.close()
    return seconds


def _restored(path: Path) -> float:
    """Return how long it takes until all of a restored guest's RAM and tags were read."""
    make_cold(path)
    began = time.perf_counter()
    restored = restore(path, lambda what, sources: SoftMachine(what, sources=sources))
    region = restored.machine.memory.regions[0]
    for plane in (region.data, region.tags):
        plane[::4096].sum()
    seconds = time.perf_counter() - began
    restored.machine.close()
    return seconds
