"""The program for Linux guests under qemu-aarch64's user mode, whose MTE is not ours."""

import re
import subprocess
from pathlib import Path

import pytest

from tagalong._native import LIBRARY_FOLDER

pytestmark = pytest.mark.oracle

TAGKEEPER = LIBRARY_FOLDER / "linux" / "tagkeeper"
PROGRESS = re.compile(
    r"tagkeeper: progress seconds=\d+ checked=(?P<checked>\d+) changed=(?P<changed>\d+) "
    r"faults=(?P<faults>\d+) signals=(?P<signals>\d+) children=(?P<children>\d+) "
    r"longest_gap_ms=\d+ major_faults=\d+ mode=\w+"
)


def run(qemu: Path, *knobs: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(qemu), str(TAGKEEPER), *knobs],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    ("knobs", "does"),
    [
        (
            ("mode=sync", "threads=2", "signals=1", "forks=1", "pageout=1"),
            {"checked", "changed", "faults", "signals", "children"},
        ),
        (("mode=async", "signals=1"), {"checked", "changed", "faults", "signals"}),
    ],
    ids=["sync", "async"],
)
def test_tagkeeper_finds_its_tags_right_and_takes_the_faults_it_provokes(
    qemu: Path, knobs: tuple[str, ...], does: set[str]
) -> None:
    done = run(qemu, "mib=1", "seconds=1", *knobs)

    assert (done.returncode, done.stderr) == (0, "")
    last = PROGRESS.fullmatch(done.stdout.splitlines()[-1])
    assert last is not None, done.stdout
    assert {name for name, count in last.groupdict().items() if int(count)} == does


@pytest.mark.parametrize("word", ["mib=0", "mode=x", "rate", "threads=65", "seconds=-1", "x=1"])
def test_tagkeeper_word_that_it_cannot_use_ends_it_with_status_2(qemu: Path, word: str) -> None:
    done = run(qemu, word)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"tagkeeper: cannot use {word}; there are mib=1..4096 ")
