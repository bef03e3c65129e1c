"""Measure the embedded machine beside QEMU: python -m bench.machine [--runs 5] [--json].

Both run the same Linux guest (`tagalong guest fetch`; fetched if it is missing) with one vCPU and
MTE, in turn: a boot to busybox and power-off, and the same with work for the CPU in between
(guests/linux/workload). A figure is the processor time of the whole process, user and system; of
the work, what it takes beyond a boot. QEMU is `bench.migrate`'s: version 10 or newer, with TCG.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.table import Table

from bench.migrate.qemu import find_qemu
from tagalong.lab import GuestRequest, SilentObserver, default_folder, set_up_guest
from tagalong.lab.guest import LinuxGuest

ROUNDS = {"integer": 200, "tags": 100, "float": 1000}
"""How often the guest does each kind of work: a few hundred million instructions in all."""

_KERNEL_WORDS = "console=ttyAMA0 nokaslr cryptomgr.notests quiet"
_REPORT = re.compile(rb"workload: (\w+) rounds=(\d+) ticks=(\d+) sum=(\w+)")
_TIMEOUT_S = 300


@dataclass(frozen=True)
class Run:
    """One run of a guest: its process's processor time, and what the guest's work reported."""

    seconds: float
    ticks: int  # on the embedded machine: instructions
    checksum: str


@dataclass(frozen=True)
class Figure:
    """Medians of one kind of work. `instructions`: how many it takes, in millions."""

    soft_s: float
    qemu_s: float
    instructions: float

    @property
    def ratio(self) -> float:
        """Return our time by QEMU's."""
        return self.soft_s / self.qemu_s

    @property
    def rate(self) -> float:
        """Return million instructions per second of the embedded machine."""
        return self.instructions / self.soft_s


def soft_command(guest: LinuxGuest) -> list[str]:
    """Return the command that boots `guest` on the embedded machine; its words go at the end."""
    program = [sys.executable, "-m", "tagalong", "run", "--machine", "soft", "--ram", "256M"]
    return [*program, "--kernel", str(guest.kernel), "--initrd", str(guest.initrd), "--append"]


def qemu_command(guest: LinuxGuest) -> list[str]:
    """Return the same for QEMU."""
    machine = ["-M", "virt,gic-version=3,mte=on", "-cpu", "max,pauth-impdef=on", "-accel", "tcg"]
    shape = ["-smp", "1", "-m", "256", "-display", "none", "-nodefaults", "-no-user-config"]
    files = ["-kernel", str(guest.kernel), "-initrd", str(guest.initrd)]
    return [*find_qemu(), *machine, *shape, "-serial", "stdio", "-no-reboot", *files, "-append"]


def run(command: Sequence[str], words: str) -> Run:
    """Boot, do what `words` say in the guest, power off. Raises SystemExit if it does not."""
    process = subprocess.Popen(
        [*command, f"{_KERNEL_WORDS} -- {words}"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert process.stdout is not None
    with process.stdout as output:
        printed = output.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    ended = f"guest: {words.split(maxsplit=1)[0]} ended with status 0".encode() in printed
    if not ended or process.returncode:
        raise SystemExit(f"{command[0]}: the guest did not do {words!r}: {printed[-800:]!r}")
    report = _REPORT.search(printed)
    ticks, checksum = (int(report[3]), report[4].decode()) if report else (0, "")
    return Run(used.ru_utime + used.ru_stime, ticks, checksum)


def measure(runs: int) -> dict[str, Figure]:
    """Run everything `runs` times in turn; return the figures by name, the boot first."""
    guest = set_up_guest(GuestRequest(default_folder()), SilentObserver())
    contestants = {"soft": soft_command(guest), "qemu": qemu_command(guest)}
    works = {"boot": "true", **{name: f"workload {name} {n}" for name, n in ROUNDS.items()}}
    found: dict[str, dict[str, list[Run]]] = {
        work: {name: [] for name in contestants} for work in works
    }
    for _ in range(runs):
        for work, words in works.items():
            for name, command in contestants.items():
                found[work][name].append(run(command, words))
    boot = {name: _median(samples) for name, samples in found["boot"].items()}
    figures = {"boot": Figure(boot["soft"], boot["qemu"], 0)}
    for work in ROUNDS:
        _require_same_checksum(work, found[work])
        seconds = {name: _median(samples) - boot[name] for name, samples in found[work].items()}
        instructions = found[work]["soft"][0].ticks / 1e6
        figures[work] = Figure(seconds["soft"], seconds["qemu"], instructions)
    return figures


def _median(samples: Sequence[Run]) -> float:
    return statistics.median(sample.seconds for sample in samples)


def _require_same_checksum(work: str, found: dict[str, list[Run]]) -> None:
    sums = {name: {sample.checksum for sample in samples} for name, samples in found.items()}
    if len(set.union(*sums.values())) != 1:
        raise SystemExit(f"the work {work!r} came out differently: {sums}")


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    figures = measure(arguments.runs)
    if arguments.json:
        print(json.dumps({name: asdict(figure) for name, figure in figures.items()}, indent=2))
        return
    table = Table("", "soft, s", "QEMU, s", "ratio", "soft, million instructions/s")
    for name, figure in figures.items():
        rate = f"{figure.rate:,.0f}" if figure.instructions else ""
        seconds = f"{figure.soft_s:.2f}", f"{figure.qemu_s:.2f}"
        table.add_row(name, *seconds, f"{figure.ratio:.2f}", rate)
    Console().print(table)


if __name__ == "__main__":
    main()
