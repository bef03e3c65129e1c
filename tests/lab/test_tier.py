"""The outer run tells the truth about what happened inside: one boot, every kind of outcome."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PREFIX = "tests/lab/samples/inside.txt::linux-6.12::tests/lab/samples/test_outcomes.py::"


@pytest.fixture(scope="module")
def output() -> str:
    outer = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-v", "-rA",
         "tests/lab/samples/inside.txt"],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "TAGALONG_LAB_SAMPLES": "1", "TAGALONG_LAB_KERNELS": "6.12",
             "COLUMNS": "500", "TAGALONG_EXPECTED_TIERS": ""},
    )  # fmt: skip
    assert outer.returncode == pytest.ExitCode.TESTS_FAILED, outer.stdout + outer.stderr
    return outer.stdout


@pytest.mark.parametrize(
    ("test", "outcome"),
    [
        ("test_passes", "PASSED"),
        ("test_fails", "FAILED"),
        ("test_is_skipped", "SKIPPED"),
        ("test_fails_as_expected", "XFAIL"),
        ("test_has_a_broken_fixture", "ERROR"),
        ("test_loses_the_machine", "ERROR"),
        ("test_comes_too_late", "ERROR"),
    ],
)
def test_outcome_inside_the_lab_is_the_outcome_outside(
    output: str, test: str, outcome: str
) -> None:
    assert re.search(rf"^{re.escape(PREFIX + test)} {outcome}\b", output, re.MULTILINE), output


def test_outcomes_are_counted_and_a_lost_machine_is_no_failure(output: str) -> None:
    last_line = output.strip().splitlines()[-1]

    assert "1 failed, 1 passed, 1 skipped, 1 xfailed, 3 errors" in last_line, output


def test_failure_inside_the_lab_shows_its_assertion(output: str) -> None:
    assert "E       assert (1 + 1) == 3" in output


def test_lost_machine_shows_its_console(output: str) -> None:
    assert "the machine was lost: the lab's machine ended without a result" in output
    assert "sysrq: Trigger a crash" in output
    assert "Kernel panic - not syncing" in output
