"""Real crashes of known cause: cores that the lab's Linux writes for tests/programs/mishap.

    python -m tests.support.mishaps FOLDER [--count 100] [--first 0] [--allocators NAME...]

runs the program with COUNT seeds per allocator in the lab, and writes into FOLDER a core per crash
and truth.jsonl. glibc is the lab's own, scudo is Debian's libclang-rt-19-dev for arm64, fetched
with the lab's private apt and without root; its cache is beside the lab's.
"""

import argparse
import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tagalong.lab.apt import Apt, system_mirror
from tagalong.lab.cache import Cache, Record, default_folder
from tagalong.lab.deb import files_of
from tagalong.lab.observer import SilentObserver
from tagalong.lab.packages import STABLE
from tests.support.lab_command import ROOT, lab

PROGRAM = ROOT / "tests" / "programs" / "mishap"
SCUDO_PACKAGE = "libclang-rt-19-dev"
SCUDO_LIBRARY = "libclang_rt.scudo_standalone-aarch64.so"
# What the lab's userland has (Debian 12).
TARGET = "aarch64-linux-gnu.2.36"
TRUTH = "truth.jsonl"
ALLOCATORS = ("glibc", "scudo", "scudo-odd-even", "simple", "scudo-records", "glibc-handler")
# What the program does besides: with neighbours of different parity, with records of frees, with a
# handler of SIGSEGV that ends in another way.
VARIANTS = {
    "scudo-odd-even": ("ODD_EVEN",), "scudo-records": ("RECORDS",), "glibc-handler": ("HANDLER",),
}  # fmt: skip

_FORM = 1
_SECONDS_A_SEED = 12
_INSIDE = "/tmp/mishaps"


@dataclass(frozen=True)
class Mishap:
    """A core, and what really happened: fields of the program's line of truth."""

    core: Path
    allocator: str
    cause: str
    start: int
    tag: int
    size: int

    @classmethod
    def of(cls, folder: Path, line: dict[str, Any]) -> "Mishap":
        return cls(
            folder / line["core"], line["allocator"], line["cause"], line["start"], line["tag"],
            line["size"],
        )  # fmt: skip


def read_truth(folder: Path) -> list[Mishap]:
    lines = (folder / TRUTH).read_text().splitlines()
    return [Mishap.of(folder, json.loads(line)) for line in lines]


def build(target: Path) -> None:
    """Compile the program for the lab's C library."""
    subprocess.run(
        [sys.executable, "-m", "ziglang", "cc", "-target", TARGET, "-mcpu=generic+v8_5a+mte",
         "-O1", "-fno-omit-frame-pointer", "-D_GNU_SOURCE", "-fno-sanitize=undefined",
         "-fno-builtin", "-o", str(target), *map(str, sorted(PROGRAM.glob("*.c")))],
        check=True,
    )  # fmt: skip


def scudo() -> Path:
    """Return scudo as a library for arm64, fetched if it is not here. Raises LabError."""
    cache = Cache(default_folder().parent / "scudo")

    def make(folder: Path) -> Record:
        observer = SilentObserver()
        apt = Apt(cache.folder("apt"), architecture="arm64", mirror=system_mirror())
        apt.update((STABLE,), observer)
        for deb in apt.download_only((SCUDO_PACKAGE,), STABLE, observer):
            for packed in files_of(deb):
                if packed.path.endswith(f"/{SCUDO_LIBRARY}"):
                    (folder / SCUDO_LIBRARY).write_bytes(packed.read())
        apt.clean()
        return {}

    record: Record = {"form": _FORM, "package": SCUDO_PACKAGE, "suite": STABLE}
    return cache.piece("library", record, make).folder / SCUDO_LIBRARY


def collect(
    folder: Path,
    *,
    count: int,
    first: int = 0,
    seconds: float = 600,
    allocators: Sequence[str] = ALLOCATORS,
) -> list[Mishap]:
    """Let the program crash in the lab with `count` seeds per allocator; return what came of it."""
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "mishap"
    build(program)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        archive.add(program, "mishap")
        archive.add(scudo(), SCUDO_LIBRARY)
    script = (
        f"mkdir {_INSIDE} && cd {_INSIDE} && tar x && cd /tagalong && "
        f"python3 -m tests.support.mishap_run {_INSIDE} {first} {count} {' '.join(allocators)}"
    )
    run = lab("run", "-i", "--timeout", str(int(seconds)), "--", "sh", "-c", script,
              stdin=packed.getvalue(), seconds=seconds + 60)  # fmt: skip
    assert run.returncode == 0, run.stderr.decode()
    with tarfile.open(fileobj=io.BytesIO(run.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return read_truth(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--allocators", nargs="+", choices=ALLOCATORS, default=ALLOCATORS)
    given = parser.parse_args()
    seconds = 120 + _SECONDS_A_SEED * given.count
    found = collect(given.folder, count=given.count, first=given.first, seconds=seconds,
                    allocators=given.allocators)  # fmt: skip
    print(f"{len(found)} cores in {given.folder}")


if __name__ == "__main__":
    main()
