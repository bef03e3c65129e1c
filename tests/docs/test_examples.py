"""The programs in examples/ run as they are, and say what their documentation promises."""

import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"
RUN_TIMEOUT_S = 120

SAID = {
    "core_tags.py": ("0x40000000 to 0x41000000, tags: True", "address 0x1000:"),
    "migrate.py": ("moved in ", "at the destination the guest is running"),
    "page_tables.py": ("pages of 4096 bytes", "tagged", "vCPU 0 is at 0x"),
    "snapshot.py": ("is running again", "restored 1: running", "restored 2: running"),
}


def test_every_example_has_a_test() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(SAID)


def test_examples_run_and_say_what_happened(tmp_path: Path) -> None:
    for name, said in SAID.items():
        ran = subprocess.run(
            [sys.executable, EXAMPLES / name],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=RUN_TIMEOUT_S,
            check=False,
        )

        assert ran.returncode == 0, f"{name}: {ran.stderr}"
        assert all(words in ran.stdout for words in said), f"{name}: {ran.stdout}"
