import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("seed", range(4))
def test_rubbish_as_code_never_leaves_guest_ram(seed: int) -> None:
    command = [sys.executable, "-m", "tests.support.fuzz_interpreter"]

    run = subprocess.run(
        [*command, "--seed", str(seed), "--rounds", "150"],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip

    assert run.returncode == 0, run.stderr
    assert int(run.stdout) > 100_000
