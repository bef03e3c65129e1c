"""Runs the tests of the project kvm-unit-tests as guests of ours, unmodified.

    python3 -m tests.support.kvm_unit_tests FOLDER [--machine kvm] [--beside-qemu] [--only WORD]

FOLDER has their flat images for arm64, as that project builds them (arm/*.flat). Each line says
what a test reported; the status is 1 if one of them failed, or did not come to its end. What each
test is given is what that project's arm/unittests.cfg says. Left out is what needs a device that a
machine of ours lacks (PCI, an ITS, a GICv2) or a monitor that migrates it in the middle.
The tests of the PMU have to find that there is none.

With --beside-qemu each test runs in QEMU (TCG), too, on a machine without what ours lacks. The
status is 1 if one reports something else there.
"""

import argparse
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import unified_diff
from pathlib import Path
from typing import Final

from bench.migrate.qemu import find_qemu
from tests.support.vm_processes import TAGALONG

_TIMEOUT_S: Final = 300.0
_SUMMARY: Final = re.compile(r"^SUMMARY: (\d+) tests?(.*)$", re.MULTILINE)
_EXIT: Final = re.compile(r"^EXIT: STATUS=(\d+)", re.MULTILINE)
_VERDICT: Final = re.compile(r"^(?:PASS|FAIL|XPASS|XFAIL|SKIP): .*$", re.MULTILINE)
_MEASURED: Final = re.compile(r"\d{4,}|0x[0-9a-f]+")
_PASSED, _NOTHING_TO_TEST = 1, 77  # they leave with status << 1 | 1, or so


@dataclass(frozen=True)
class UnitTest:
    """One test: an image, its arguments, how many CPUs it needs, and the status it leaves with."""

    name: str
    image: str
    arguments: str = ""
    vcpus: int = 1
    status: int = _PASSED


TESTS: Final = (
    UnitTest("selftest-setup", "selftest", "setup smp=2 mem=256", 2),
    UnitTest("selftest-vectors-kernel", "selftest", "vectors-kernel"),
    UnitTest("selftest-vectors-user", "selftest", "vectors-user"),
    UnitTest("selftest-smp", "selftest", "smp", 4),
    UnitTest("gicv3-ipi", "gic", "ipi", 4),
    UnitTest("gicv3-active", "gic", "active", 4),
    UnitTest("psci", "psci", "", 4),
    UnitTest("timer", "timer"),
    UnitTest("pl031", "pl031"),
    UnitTest("cache", "cache"),
    UnitTest("debug-bp", "debug", "bp"),
    UnitTest("debug-wp", "debug", "wp"),
    UnitTest("debug-sstep", "debug", "ss"),
    UnitTest("fpu-context", "fpu", "", 2),
    UnitTest("mte-sync", "mte", "sync"),
    UnitTest("mte-async", "mte", "async"),
    UnitTest("mte-asymm", "mte", "asymm"),
    UnitTest("spinlock", "spinlock-test", "", 2),
    UnitTest("sieve", "sieve"),
    UnitTest("pmu-cycle-counter", "pmu", "cycle-counter 0", status=_NOTHING_TO_TEST),
    UnitTest("pmu-event-introspection", "pmu", "pmu-event-introspection", status=_NOTHING_TO_TEST),
    UnitTest("pmu-overflow-interrupt", "pmu", "pmu-overflow-interrupt", status=_NOTHING_TO_TEST),
)


@dataclass(frozen=True)
class Outcome:
    """What became of a test: `summary` is its own last line, or why there is none."""

    is_right: bool
    summary: str
    output: str

    @property
    def verdicts(self) -> list[str]:
        """Return what it said of each of its parts, without what it measured, in any order."""
        return sorted(_MEASURED.sub("N", line.strip()) for line in _VERDICT.findall(self.output))


def our_command(test: UnitTest, folder: Path, machine: str) -> list[str]:
    """Return what runs a test as a guest of ours."""
    return [
        *TAGALONG, "run", "--machine", machine, "--kernel", str(folder / f"{test.image}.flat"),
        "--append", test.arguments, "--vcpus", str(test.vcpus), "--ram", "256M",
    ]  # fmt: skip


def qemu_command(test: UnitTest, folder: Path) -> list[str]:
    """Return what runs it in QEMU; the PCI device takes its exit status there."""
    return [
        *find_qemu(), "-M", "virt,gic-version=3,mte=on", "-cpu", "max,sve=off,sme=off,pmu=off",
        "-accel", "tcg", "-smp", str(test.vcpus), "-m", "256", "-display", "none", "-nodefaults",
        "-serial", "stdio", "-device", "pci-testdev", "-no-reboot",
        "-kernel", str(folder / f"{test.image}.flat"), "-append", test.arguments,
    ]  # fmt: skip


def run_unit_test(test: UnitTest, command: Sequence[str]) -> Outcome:
    """Run a test by one of these commands and return what it reported."""
    try:
        ran = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, errors="replace", timeout=_TIMEOUT_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        output = (error.stdout or b"").decode(errors="replace")
        return Outcome(is_right=False, summary=f"no end within {_TIMEOUT_S:g} s", output=output)
    summary, left = _SUMMARY.search(ran.stdout), _EXIT.search(ran.stdout)
    said = f"{summary[1]} tests{summary[2]}" if summary is not None else "no summary"
    is_right = left is not None and int(left[1]) == test.status and ran.returncode == 0
    return Outcome(is_right, said, ran.stdout)


def agrees_with_qemu(test: UnitTest, ours: Outcome, folder: Path) -> bool:
    """Run a test in QEMU, say in what its report differs, and return whether it does not."""
    theirs = run_unit_test(test, qemu_command(test, folder))
    other = [*unified_diff(theirs.verdicts, ours.verdicts, "QEMU", "ours", n=0, lineterm="")]
    say("      QEMU reports " + ("something else:" if other else "the same"))
    say(*(f"      {line}" for line in other))
    return not other


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tests that were asked for and print what they reported."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--machine", choices=("kvm", "soft"), default="kvm")
    parser.add_argument("--beside-qemu", action="store_true", help="compare with QEMU's reports")
    parser.add_argument("--only", default="", help="those with this word in their name")
    parser.add_argument("--verbose", action="store_true", help="show their output, too")
    options = parser.parse_args(arguments)
    wrong = 0
    for test in TESTS:
        if options.only not in test.name:
            continue
        outcome = run_unit_test(test, our_command(test, options.folder, options.machine))
        wrong += not outcome.is_right
        mark = "pass" if outcome.is_right else "FAIL"
        say(f"{mark}  {test.name:<24} {outcome.summary}")
        if options.verbose or not outcome.is_right:
            say(*(f"      {line}" for line in outcome.output.splitlines()))
        if options.beside_qemu:
            wrong += not agrees_with_qemu(test, outcome, options.folder)
    return 1 if wrong else 0


def say(*lines: str) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
