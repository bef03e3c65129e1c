"""The coverage-guided fuzzer finds nothing in the time that there is; `make fuzz` has more."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SECONDS = 6


@pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None, reason="atheris has no wheel for this Python"
)
def test_fuzzed_streams_are_refused_with_the_right_error(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.faults.fuzz_stream", "--corpus", str(tmp_path)]

    result = subprocess.run(
        [*command, "--seconds", str(SECONDS)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert result.returncode == 0, result.stderr[-4000:]
    assert "Done " in result.stderr
