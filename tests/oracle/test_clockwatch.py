"""The program that watches a Linux guest's clock, under qemu-aarch64's user mode."""

import re
import subprocess
from pathlib import Path

import pytest

from tagalong._native import LIBRARY_FOLDER

pytestmark = pytest.mark.oracle

CLOCKWATCH = LIBRARY_FOLDER / "linux" / "clockwatch"
PROGRESS = re.compile(
    r"clockwatch: progress seconds=1 cpus=\d+ reads=(?P<reads>\d+) largest-step-ms=\d+"
)


def run(qemu: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(qemu), str(CLOCKWATCH), *words],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_clockwatch_reads_the_clock_on_all_cpus_and_passes(qemu: Path) -> None:
    done = run(qemu, "1")

    progress, verdict = done.stdout.splitlines()
    assert (done.returncode, done.stderr, verdict) == (0, "", "clockwatch: PASS")
    found = PROGRESS.fullmatch(progress)
    assert found is not None, progress
    assert int(found["reads"]) > 0


@pytest.mark.parametrize("words", [("x",), ("",), ("-1",), ("1", "2")])
def test_clockwatch_words_that_it_cannot_use_end_it_with_status_2(
    qemu: Path, words: tuple[str, ...]
) -> None:
    done = run(qemu, *words)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "clockwatch: give a number of seconds, or nothing to watch for ever\n"
