"""`tagalong beside` in the lab: real QEMUs, a real Linux guest, real migrations, and what can fail.

One boot for all: the demo, a VMM that is hard on the preloaded library, and with TAGALONG_LONG the
short form of tests/support/beside_trials.py, all of which `make beside` runs.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.lab_command import ROOT, lab
from tests.support.lab_session import KERNELS

# The emulated host is slow and may share its cores: the downtime there says nothing.
DEMO = ("tagalong", "beside", "demo", "--json", "--max-downtime", "60000",
        "--knobs", "mib=4 rate=300")  # fmt: skip
LIBRARY = ("python3", "-m", "tests.support.library_run", "/tmp/vmm")
TRIALS = ("python3", "-m", "tests.support.beside_trials", "short")
IS_LONG = "TAGALONG_LONG" in os.environ

HARD_VMM = ROOT / "tests" / "programs" / "vmm" / "main.c"
# What the lab's userland has (Debian 12).
TARGET = "aarch64-linux-gnu.2.36"


@dataclass(frozen=True)
class Seen:
    """The demo's report, what the hard VMM printed in each of its three runs, and trials."""

    demo: dict[str, Any]
    runs: tuple[list[str], ...]
    passed: int


def hard_vmm(folder: Path) -> bytes:
    target = folder / "vmm"
    subprocess.run(
        [sys.executable, "-m", "ziglang", "cc", "-target", TARGET, "-O1", "-Wall", "-Wextra",
         "-Werror", "-D_GNU_SOURCE", "-fno-sanitize=undefined", "-o", str(target), str(HARD_VMM)],
        check=True,
    )  # fmt: skip
    return target.read_bytes()


@pytest.fixture(scope="module", params=KERNELS)
def seen(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    script = (
        f"cat > /tmp/vmm && chmod +x /tmp/vmm && {shlex.join(DEMO)} && {shlex.join(LIBRARY)} && "
        f"echo === && exec {shlex.join(TRIALS) if IS_LONG else 'true'}"
    )
    run = lab(
        "run", "-i", "--with-vmm", "--ram", "4G", "--kernel", request.param, "--timeout", "1200",
        "--", "sh", "-c", script, stdin=hard_vmm(tmp_path_factory.mktemp("vmm")), seconds=1400,
    )  # fmt: skip
    output = run.stdout.decode()
    assert run.returncode == 0, f"{output}\n{run.stderr.decode()}"
    report, end = json.JSONDecoder().raw_decode(output)
    *runs, trials = re.split("^===.*\n", output[end:], flags=re.MULTILINE)[1:]
    lines = tuple(text.splitlines() for text in runs)
    return Seen(report, lines, len(re.findall("^passed ", trials, re.MULTILINE)))


@pytest.mark.timeout(1500)
def test_linux_guest_of_qemu_moves_with_its_tags_whatever_fails(seen: Seen) -> None:
    report = seen.demo

    assert report["guest_failure_lines"] == []
    assert report["checked_after"] > report["checked_before"]
    (migration,) = report["migrations"]
    assert migration["tag_bytes_wire"] > 0
    assert migration["data_bytes_wire"] == 0
    assert migration["vmm"]["status"] == "completed"
    assert 0 < migration["vmm"]["tags_ms"] <= migration["vmm"]["downtime_ms"] + 1
    assert seen.passed == (3 if IS_LONG else 0)


@pytest.mark.timeout(1500)
def test_vmm_under_the_library_sees_what_it_sees_without(seen: Seen) -> None:
    """By itself, under the library alone, and under it beside a process of ours: no difference."""
    plain, preloaded, beside = seen.runs

    assert plain == preloaded
    assert plain == beside
    for line in (
        "a slot in it: 0, errno 77",
        "KVM_RUN that must return at once: -1, errno 4",
        "what was loaded: 4660, errno 77",
        "a cancelled thread came through: 1, errno 77",
        "all threads are that user's: 1, errno 77",
    ):
        assert line in plain
