"""The programs in examples/ run as they are, and say what their documentation promises."""

import re
import subprocess
import sys
from pathlib import Path

from tagalong.snapshot import save
from tagalong.soft import SoftMachine

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
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


def python_fences() -> list[tuple[str, str]]:
    """Return each Python program that a page shows, with the page's name."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [
        (page.name, code)
        for page in pages
        for mark, code in re.findall(
            r"^(<!-- commands: not run: .*? -->\n)?```python\n(.*?)^```$",
            page.read_text(),
            re.M | re.S,
        )
        if not mark
    ]


def test_python_on_every_page_runs(tmp_path: Path) -> None:
    """All but those with an `await` of their own, which are for an async program."""
    core = tmp_path / "vm.core"
    with SoftMachine.create(ram_bytes=4 << 20) as machine:
        save(machine, core)
    programs = [(name, code.replace("0x4027_0000", "0x4000_0000"))
                for name, code in python_fences() if "await " not in code]  # fmt: skip

    assert {name for name, _ in programs} >= {"README.md", "cores.md", "access.md", "snapshot.md"}
    for name, code in programs:
        ran = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True,
            timeout=RUN_TIMEOUT_S, check=False,
        )  # fmt: skip
        assert ran.returncode == 0, f"{name}: {ran.stderr}"
