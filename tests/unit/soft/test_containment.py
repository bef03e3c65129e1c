import subprocess
import sys
from pathlib import Path

import pytest

import toolchain

ROOT = Path(__file__).parents[3]


def fuzz(*arguments: str) -> int:
    """Run the fuzzer; return how many instructions were executed."""
    run = subprocess.run(
        [sys.executable, "-m", "tests.support.fuzz_interpreter", *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return int(run.stdout)


@pytest.mark.parametrize("seed", range(4))
def test_rubbish_as_code_never_leaves_guest_ram(seed: int) -> None:
    executed = fuzz("--seed", str(seed), "--rounds", "150")

    assert executed > 100_000


def test_rubbish_as_code_has_no_undefined_behaviour(tmp_path: Path) -> None:
    library = toolchain.build_library(ROOT, tmp_path, sanitised=True)

    executed = fuzz("--seed", "99", "--rounds", "150", "--library", str(library))

    assert executed > 100_000
