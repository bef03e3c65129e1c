"""Measures figures with the tagalong that is imported: python -m bench.ab.worker FOLDER CORE.

It says first where that is, then answers each line, the key of a figure, with a line: its value.
Ends when its input does. FOLDER: for files; CORE: a core that every release can read.
"""

import multiprocessing
import subprocess
import sys
import time
from functools import cache, partial
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

import tagalong
from tagalong.memory.reserve import reserve
from tagalong.migrate import MigrationOptions, listen, migrate_to, parse_address, receive_from
from tagalong.snapshot import restore, save
from tagalong.soft import SoftMachine

MIB = 1 << 20
_SPAWN = multiprocessing.get_context("spawn")
_RANDOM_BYTES = 16 * MIB
_REPEATS = 5  # of what takes milliseconds; the shortest counts


@cache
def _machine(mib: int, filled_mib: int) -> SoftMachine:
    """Return a machine of which so much has random data and tags."""
    machine = SoftMachine.create(ram_bytes=mib * MIB)
    region = machine.memory.regions[0]
    random = np.frombuffer(np.random.default_rng(1).bytes(_RANDOM_BYTES), np.uint8)
    for plane, size in (
        (region.raw_data, filled_mib * MIB),
        (region.raw_tags, filled_mib * MIB // 32),
    ):
        for start in range(0, size, _RANDOM_BYTES):
            part = plane[start : min(start + _RANDOM_BYTES, size)]
            part[:] = random[: part.size]
    return machine


def _seconds_of_a_move(machine: SoftMachine, channels: int, times: int, ready_bytes: int) -> float:
    """Return the shortest of several migrations to one process, with so much memory reserved."""
    ours, theirs = _SPAWN.Pipe()
    process = _SPAWN.Process(target=_receive, args=(theirs, times, ready_bytes))
    process.start()
    seconds = []
    for _ in range(times):
        uri = ours.recv()
        began = time.perf_counter()
        migrate_to(uri, machine, MigrationOptions(channels=channels))
        seconds.append(time.perf_counter() - began)
    process.join()
    return min(seconds)


def _receive(peer: Connection, times: int, ready_bytes: int) -> None:
    for _ in range(times):
        if ready_bytes:
            reserve(ready_bytes, lambda: False)
            reserve(ready_bytes // 32, lambda: False)
        with listen(parse_address("tcp:127.0.0.1:0")) as listener:
            peer.send(str(listener.address))
            receive_from(listener, SoftMachine.from_description).machine.close()


def _move(mib: int, channels: int) -> float:
    machine = _machine(mib, mib)
    return mib * MIB / _seconds_of_a_move(machine, channels, 2, mib * MIB) / 1e9


def _fixed() -> float:
    return _seconds_of_a_move(_machine(64, 1), 1, _REPEATS, 0) * 1e3


def _dump(folder: Path) -> float:
    machine, path = _machine(512, 512), folder / "dump.core"
    began = time.perf_counter()
    save(machine, path)
    seconds = time.perf_counter() - began
    path.unlink()
    return 512 * MIB / seconds / 1e9


def _restore(folder: Path) -> float:
    path = folder / "restore.core"
    if not path.exists():
        save(_machine(64, 64), path)
    return min(_seconds_of_a_restore(path) for _ in range(_REPEATS)) * 1e3


def _seconds_of_a_restore(path: Path) -> float:
    began = time.perf_counter()
    restored = restore(path, lambda description, sources: SoftMachine(description, sources=sources))
    assert isinstance(restored.machine, SoftMachine)
    restored.machine.vcpus[0].step(1)
    seconds = time.perf_counter() - began
    restored.machine.close()
    return seconds


def _info(core: Path) -> float:
    command = [sys.executable, "-m", "tagalong", "info", str(core)]
    seconds = []
    for _ in range(_REPEATS):
        began = time.perf_counter()
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def main() -> None:
    """Answer until the input ends."""
    folder, core = Path(sys.argv[1]), Path(sys.argv[2])
    measures: dict[str, partial[float]] = {
        "move_2048": partial(_move, 2048, 2),
        "move_256": partial(_move, 256, 1),
        "fixed": partial(_fixed),
        "dump": partial(_dump, folder),
        "restore": partial(_restore, folder),
        "info": partial(_info, core),
    }
    print(Path(tagalong.__file__).parent, flush=True)
    for line in sys.stdin:
        print(measures[line.strip()](), flush=True)


if __name__ == "__main__":
    main()
