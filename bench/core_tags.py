"""Reading the tags of 1 GiB of guest memory from a core: ours, gdb's and lldb's rate.

`view` is what `core.tags` costs by itself; reading copies every byte of it, beside a copy of as
many bytes that lie in ordinary memory: that is the memory's bandwidth. gdb gives one tag a
command, lldb a range; both are measured without their start.
"""

import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tagalong.core import CoreNotes, CoreSegment, CoreWriter, open_core
from tagalong.machine import (
    MachineDescription,
    MachineState,
    PowerState,
    RegionDescription,
    VcpuState,
    register_ids,
)
from tagalong.memory import Gpa
from tests.support.fetch_debuggers import GDB, LLDB, Debugger, DebuggerMissingError

RAM = Gpa(0x4000_0000)
SIZE = 1 << 30
GRANULES = SIZE // 16
PAGE = 4096

_ROUNDS = 7
_GDB_GRANULES = 4000
_LLDB_GRANULES = 100_000


def measure(folder: Path | None = None) -> dict[str, float]:
    """Return granules/s of each way, and ratios; a debugger that is missing is left out."""
    with tempfile.TemporaryDirectory(dir=folder or _memory_folder()) as scratch:
        path = Path(scratch) / "vm.core"
        _write_core(path)
        figures = _ours(path)
        for name, debugger, granules, commands in (
            ("gdb", GDB, _GDB_GRANULES, _gdb_commands),
            ("lldb", LLDB, _LLDB_GRANULES, _lldb_commands),
        ):
            try:
                rate = _rate_of_a_debugger(debugger, path, granules, commands)
            except DebuggerMissingError:
                continue
            figures[f"{name}_granules_per_s"] = rate
    return figures


def _memory_folder() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def _write_core(path: Path) -> None:
    """Write a core of random tags; its data are a hole."""
    description = MachineDescription(PAGE, 1, 3, (RegionDescription(RAM, SIZE),))
    state = MachineState((VcpuState({register_ids.PC: RAM}, PowerState.ON),))
    tags = np.frombuffer(np.random.default_rng(1).bytes(SIZE // 32), np.uint8)
    segment = CoreSegment(RAM, RAM, SIZE, has_tags=True)
    with CoreWriter(path, [segment], page_size_bytes=PAGE) as writer:
        writer.write_tags(0, 0, tags)
        writer.commit(CoreNotes(description, state))


def _ours(path: Path) -> dict[str, float]:
    with open_core(path) as core:
        target = np.empty(SIZE // 32, np.uint8)
        target.fill(1)
        # The first time the pages of the file come into the page tables.
        first = _seconds(lambda: np.copyto(target, core.tags(RAM, SIZE)))
        here = core.tags(RAM, SIZE).copy()
        view, copy, bandwidth = _best_in_turn(
            lambda: core.tags(RAM, SIZE),
            lambda: np.copyto(target, core.tags(RAM, SIZE)),
            lambda: np.copyto(target, here),
        )
        (unpack,) = _best_in_turn(lambda: core.granule_tags(RAM, SIZE))
    return {
        "view_microseconds": view * 1e6,
        "first_read_gb_per_s": SIZE / 32 / first / 1e9,
        "read_gb_per_s": SIZE / 32 / copy / 1e9,
        "memory_bandwidth_gb_per_s": SIZE / 32 / bandwidth / 1e9,
        "ratio_to_memory_bandwidth": bandwidth / copy,
        "granules_per_s": GRANULES / copy,
        "one_tag_a_byte_granules_per_s": GRANULES / unpack,
    }


def _best_in_turn(*actions: Callable[[], object]) -> list[float]:
    """Return the shortest time of each action; they take turns, so that noise hits them all."""
    rounds = [[_seconds(action) for action in actions] for _ in range(_ROUNDS)]
    return [min(times) for times in zip(*rounds, strict=True)]


def _seconds(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def _gdb_commands(path: Path, granules: int) -> list[str]:
    lines = [f"core-file {path}"]
    lines += [
        f"memory-tag print-allocation-tag (char*){RAM + 16 * number:#x}"
        for number in range(granules)
    ]
    return ["-nx", "-batch", "-x", _script(path, lines)]


def _lldb_commands(path: Path, granules: int) -> list[str]:
    lines = [f"target create --core {path}"]
    if granules:
        lines.append(f"memory tag read {RAM:#x} {RAM + 16 * granules:#x}")
    return ["--no-lldbinit", "--batch", "--source", _script(path, lines)]


def _script(core: Path, lines: list[str]) -> str:
    script = core.with_suffix(".script")
    script.write_text("\n".join(lines) + "\n")
    return str(script)


def _rate_of_a_debugger(
    debugger: Debugger, path: Path, granules: int, commands: Callable[[Path, int], list[str]]
) -> float:
    found = debugger.find()

    def run(number: int) -> None:
        subprocess.run([*found, *commands(path, number)], capture_output=True, check=True)

    start = min(_seconds(lambda: run(0)) for _ in range(3))
    return granules / (_seconds(lambda: run(granules)) - start)
