"""`tagalong beside` in the lab: real QEMUs, a real Linux guest, real migrations, and what can fail.

One boot for all: the demo, and with TAGALONG_LONG the short form of
tests/support/beside_trials.py, all of which `make beside` runs.
"""

import json
import os
import re
import shlex

import pytest

from tests.support.lab_command import lab
from tests.support.lab_session import KERNELS

# The emulated host is slow and may share its cores: the downtime there says nothing.
DEMO = ("tagalong", "beside", "demo", "--json", "--max-downtime", "60000",
        "--knobs", "mib=4 rate=300")  # fmt: skip
TRIALS = ("python3", "-m", "tests.support.beside_trials", "short")
IS_LONG = "TAGALONG_LONG" in os.environ


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("kernel", KERNELS)
def test_linux_guest_of_qemu_moves_with_its_tags_whatever_fails(kernel: str) -> None:
    script = f"{shlex.join(DEMO)} && exec {shlex.join(TRIALS) if IS_LONG else 'true'}"
    run = lab(
        "run", "--with-vmm", "--ram", "4G", "--kernel", kernel, "--timeout", "1200", "--",
        "sh", "-c", script, seconds=1400,
    )  # fmt: skip
    output = run.stdout.decode()

    assert run.returncode == 0, f"{output}\n{run.stderr.decode()}"
    report, end = json.JSONDecoder().raw_decode(output)
    assert report["guest_failure_lines"] == []
    assert report["checked_after"] > report["checked_before"]
    (migration,) = report["migrations"]
    assert migration["tag_bytes_wire"] > 0
    assert migration["data_bytes_wire"] == 0
    assert migration["vmm"]["status"] == "completed"
    assert 0 < migration["vmm"]["tags_ms"] <= migration["vmm"]["downtime_ms"] + 1
    assert len(re.findall("^passed ", output[end:], re.MULTILINE)) == (3 if IS_LONG else 0)
