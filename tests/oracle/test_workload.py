"""The work that CPUs are timed by, under qemu-aarch64's user mode."""

import re
import subprocess
from pathlib import Path

import pytest

from tagalong._native import LIBRARY_FOLDER

pytestmark = pytest.mark.oracle

WORKLOAD = LIBRARY_FOLDER / "linux" / "workload"


def run(qemu: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(qemu), str(WORKLOAD), *words], capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize("kind", ["integer", "tags", "float"])
def test_workload_reports_ticks_and_a_checksum_that_depends_on_its_rounds(
    qemu: Path, kind: str
) -> None:
    reports = []
    for rounds in ("1", "1", "2"):
        done = run(qemu, kind, rounds)
        assert done.returncode == 0, done.stderr
        found = re.fullmatch(
            rf"workload: {kind} rounds={rounds} ticks=\d+ sum=([0-9a-f]{{16}})\n", done.stdout
        )
        assert found is not None, done.stdout
        reports.append(found[1])

    assert reports[0] == reports[1] != reports[2]


@pytest.mark.parametrize("words", [(), ("integer",), ("else", "1")])
def test_workload_with_other_words_says_which_it_takes(qemu: Path, words: tuple[str, ...]) -> None:
    done = run(qemu, *words)

    assert (done.returncode, done.stderr) == (1, "workload integer|tags|float ROUNDS\n")
