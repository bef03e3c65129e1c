"""Snapshots against a plain `cp` of the same bytes, and against QEMU's dump-guest-memory.

    python -m bench.snapshot [--json] [--runs 5] [--ram MIB] [--folder FOLDER]

Everything is written to FOLDER, by default /dev/shm (tmpfs): about three times --ram. The
peers take turns within each run, so that their ratios hold on a noisy machine; every figure
is the median of --runs runs. QEMU is found as for `python -m bench.migrate`; it writes no tags.
"""

import argparse
import asyncio
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np
from qemu.qmp import QMPClient

from bench.migrate.qemu import QemuProcess, file_backend, find_qemu
from tagalong.core import CoreNotes, CoreSegment, CoreWriter
from tagalong.snapshot import restore, save
from tagalong.soft import SoftMachine

MIB = 1 << 20
_CHUNK_BYTES = 4 << 20
_TOUCHED_SHARE = 100
_SIZES_MIB = (64, 4096)

Figures = dict[str, float]


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def random_machine(ram_bytes: int) -> SoftMachine:
    """Return a machine whose data and tags are random: incompressible, and nothing is zero."""
    machine = SoftMachine.create(ram_bytes=ram_bytes)
    region, random = machine.memory.regions[0], np.random.default_rng(1)
    for plane in (region.raw_data, region.raw_tags):
        for at in range(0, plane.size, _CHUNK_BYTES):
            part = plane[at : at + _CHUNK_BYTES]
            part[:] = np.frombuffer(random.bytes(part.size), np.uint8)
    return machine


def sparse_machine(ram_bytes: int) -> SoftMachine:
    """Return a machine of which every hundredth page, at random, has data and tags."""
    machine = SoftMachine.create(ram_bytes=ram_bytes)
    region, random = machine.memory.regions[0], np.random.default_rng(2)
    count = region.page_count // _TOUCHED_SHARE
    for page in random.choice(region.page_count, count, replace=False).tolist():
        region.raw_data[page * 4096 : (page + 1) * 4096] = 0xA5
        region.raw_tags[page * 128 : (page + 1) * 128] = 0x21
    return machine


def measure_dump(folder: Path, ram_bytes: int, runs: int) -> Figures:
    """Return the rates of a dump, of cp and of QEMU, in GB of guest RAM a second."""
    ours, copied = folder / "ours.core", folder / "copy.core"
    samples: dict[str, list[float]] = {"dump": [], "cp": [], "qemu": []}
    machine = random_machine(ram_bytes)
    with _paused_qemu(folder, machine) as dump_by_qemu:
        for _ in range(runs):
            samples["dump"].append(_seconds(lambda: save(machine, ours)))
            samples["cp"].append(_seconds(lambda: subprocess.run(["cp", ours, copied], check=True)))
            copied.unlink()
            ours.unlink()
            if dump_by_qemu is not None:
                samples["qemu"].append(_seconds(dump_by_qemu))
    machine.close()
    return _rates(samples, ram_bytes)


def _rates(samples: Mapping[str, list[float]], ram_bytes: int) -> Figures:
    figures = {"ram_mib": ram_bytes / MIB}
    for name, seconds in samples.items():
        if seconds:
            figures[f"{name}_gb_per_s"] = ram_bytes / statistics.median(seconds) / 1e9
    for peer in ("cp", "qemu"):
        pairs = zip(samples["dump"], samples[peer], strict=False)
        ratios = [theirs / ours for ours, theirs in pairs]
        if ratios:
            figures[f"dump_ratio_to_{peer}"] = statistics.median(ratios)
    return figures


@contextlib.contextmanager
def _paused_qemu(folder: Path, machine: SoftMachine) -> Iterator[Callable[[], None] | None]:
    """Give what lets a QEMU with the same RAM content dump it; None if there is no QEMU."""
    try:
        find_qemu()
    except SystemExit as reason:
        print(reason, file=sys.stderr)
        yield None
        return
    ram, control, target = folder / "qemu.ram", folder / "qemu.sock", folder / "qemu.core"
    region = machine.memory.regions[0]
    with ram.open("wb") as stream:
        for at in range(0, region.size_bytes, _CHUNK_BYTES):
            stream.write(region.data[at : at + _CHUNK_BYTES].data)
    options = ["-object", file_backend(ram, region.size_bytes)]
    with QemuProcess(control, options, region.size_bytes), asyncio.Runner() as runner:
        client = QMPClient("dump")
        runner.run(client.connect(str(control)))
        request = {"paging": False, "protocol": f"file:{target}"}

        def dump_and_remove() -> None:
            runner.run(client.execute("dump-guest-memory", request))
            target.unlink()

        yield dump_and_remove
        runner.run(client.disconnect())
    ram.unlink()


def measure_sparse(folder: Path, ram_bytes: int, runs: int) -> Figures:
    """Return what a dump of a mostly empty guest takes in time and on disk.

    The CPU's time is what is left of it where others use the machine as well.
    """
    path = folder / "sparse.core"
    machine = sparse_machine(ram_bytes)
    seconds, cpu_seconds, disk = [], [], 0.0
    for _ in range(runs):
        cpu_before = time.process_time()
        seconds.append(_seconds(lambda: save(machine, path)))
        cpu_seconds.append(time.process_time() - cpu_before)
        disk = path.stat().st_blocks * 512 / MIB
        path.unlink()
    machine.close()
    return {
        "ram_mib": ram_bytes / MIB,
        "ms": statistics.median(seconds) * 1e3,
        "cpu_ms": statistics.median(cpu_seconds) * 1e3,
        "disk_mib": disk,
    }


def measure_restore(folder: Path, runs: int) -> Figures:
    """Return how long it takes from a snapshot to the guest's first instruction, by size.

    All of the RAM has content, so that nothing is fast because it is empty.
    """
    paths = {mib: folder / f"{mib}.core" for mib in _SIZES_MIB}
    for mib, path in paths.items():
        _write_full_core(path, mib * MIB)
    samples: dict[int, list[float]] = {mib: [] for mib in paths}
    for _ in range(runs + 1):
        for mib, path in paths.items():
            samples[mib].append(_seconds(partial(_restore_and_step, path)))
    for path in paths.values():
        path.unlink()
    # The first restore of a process loads modules.
    medians = {mib: statistics.median(each[1:]) for mib, each in samples.items()}
    small, large = medians.values()
    figures = {f"ms_{mib}_mib": each * 1e3 for mib, each in medians.items()}
    return {**figures, "ratio_large_to_small": large / small}


def _restore_and_step(path: Path) -> None:
    restored = restore(path, lambda description, sources: SoftMachine(description, sources=sources))
    assert isinstance(restored.machine, SoftMachine)
    restored.machine.vcpus[0].step(1)
    if restored.machine.vcpus[0].instructions != 1:
        raise SystemExit("the restored guest executed nothing")
    restored.machine.close()


def _write_full_core(path: Path, ram_bytes: int) -> None:
    machine = SoftMachine.create(ram_bytes=ram_bytes)
    gpa = machine.memory.regions[0].gpa
    nops = np.full(_CHUNK_BYTES // 4, 0xD503201F, "<u4").view(np.uint8)
    tags = np.full(_CHUNK_BYTES // 32, 0x21, np.uint8)
    vcpu = machine.vcpus[0].save().registers
    program_counter = next(r for r in vcpu if r & 0xFFFF_FFFF == 0x0010_0040)
    machine.vcpus[0].set_register(program_counter, gpa)
    with CoreWriter(path, [CoreSegment(gpa, gpa, ram_bytes, True)], page_size_bytes=4096) as core:
        for at in range(0, ram_bytes, _CHUNK_BYTES):
            core.write_data(0, at, nops)
            core.write_tags(0, at, tags)
        core.commit(CoreNotes(machine.description, machine.save_state(), running=True))
    machine.close()


def measure(folder: Path, ram_bytes: int, runs: int) -> dict[str, Figures]:
    """Return all figures of snapshots."""
    return {
        "dump of random RAM and tags, tmpfs": measure_dump(folder, ram_bytes, runs),
        "dump of RAM that is touched to 1 %": measure_sparse(folder, ram_bytes, runs),
        "restore to the first guest instruction": measure_restore(folder, runs),
    }


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--ram", type=int, default=2048, metavar="MIB")
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        figures = measure(Path(folder), arguments.ram * MIB, arguments.runs)
    if arguments.json:
        print(json.dumps(figures, indent=2))
        return
    for title, values in figures.items():
        print(title)
        for name, value in values.items():
            print(f"  {name:22} {value:,.3f}")


if __name__ == "__main__":
    main()
