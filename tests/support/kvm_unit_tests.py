"""Runs the tests of the project kvm-unit-tests as guests of ours, unmodified.

    python3 -m tests.support.kvm_unit_tests FOLDER [--machine kvm] [--only WORD] [--verbose]

FOLDER has their flat images for arm64, as that project builds them (arm/*.flat). Each line says
what a test reported; the status is 1 if one of them failed, or did not come to its end. What each
test is given is what that project's arm/unittests.cfg says. Left out is what needs a device that a
machine of ours lacks (PCI, a PMU, an ITS, a GICv2) or a monitor that migrates it in the middle.
"""

import argparse
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.support.vm_processes import TAGALONG

_TIMEOUT_S: Final = 300.0
_SUMMARY: Final = re.compile(r"^SUMMARY: (\d+) tests?(.*)$", re.MULTILINE)
_EXIT: Final = re.compile(r"^EXIT: STATUS=(\d+)", re.MULTILINE)
_PASSED: Final = 1  # they leave with status << 1 | 1


@dataclass(frozen=True)
class UnitTest:
    """One test: an image, its arguments, and how many CPUs it needs."""

    name: str
    image: str
    arguments: str = ""
    vcpus: int = 1
    ram: str = "256M"


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
)


@dataclass(frozen=True)
class Outcome:
    """What became of a test: `summary` is its own last line, or why there is none."""

    is_right: bool
    summary: str
    output: str


def run_unit_test(test: UnitTest, folder: Path, machine: str) -> Outcome:
    """Run a test as a guest and return what it reported."""
    command = [
        *TAGALONG, "run", "--machine", machine, "--kernel", str(folder / f"{test.image}.flat"),
        "--append", test.arguments, "--vcpus", str(test.vcpus), "--ram", test.ram,
    ]  # fmt: skip
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
    is_right = left is not None and int(left[1]) == _PASSED and ran.returncode == 0
    return Outcome(is_right, said, ran.stdout)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tests that were asked for and print what they reported."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--machine", choices=("kvm", "soft"), default="kvm")
    parser.add_argument("--only", default="", help="those with this word in their name")
    parser.add_argument("--verbose", action="store_true", help="show their output, too")
    options = parser.parse_args(arguments)
    wrong = 0
    for test in TESTS:
        if options.only not in test.name:
            continue
        outcome = run_unit_test(test, options.folder, options.machine)
        wrong += not outcome.is_right
        mark = "pass" if outcome.is_right else "FAIL"
        sys.stdout.write(f"{mark}  {test.name:<24} {outcome.summary}\n")
        if options.verbose or not outcome.is_right:
            sys.stdout.write("".join(f"      {line}\n" for line in outcome.output.splitlines()))
        sys.stdout.flush()
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
