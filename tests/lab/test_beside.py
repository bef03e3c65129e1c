"""`tagalong beside` in the lab: real QEMUs, a real Linux guest, a real migration of both."""

import json
from typing import Any

import pytest

from tests.support.lab_command import lab
from tests.support.lab_session import KERNELS

# The emulated host is slow and may share its cores: the downtime there says nothing.
DEMO = ("tagalong", "beside", "demo", "--json", "--max-downtime", "60000", "--knobs")


def demo(kernel: str, *options: str) -> tuple[int, dict[str, Any], str]:
    run = lab(
        "run", "--with-vmm", "--ram", "3G", "--kernel", kernel, "--timeout", "900", "--",
        *DEMO, *options, seconds=1200,
    )  # fmt: skip
    report = json.loads(run.stdout) if run.stdout.startswith(b"{") else {}
    return run.returncode, report, run.stderr.decode()


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("kernel", KERNELS)
def test_linux_guest_of_qemu_moves_with_its_tags(kernel: str) -> None:
    status, report, messages = demo(kernel, "mib=4 rate=300")

    assert status == 0, f"{report}\n{messages}"
    assert report["guest_failure_lines"] == []
    assert report["checked_after"] > report["checked_before"]
    (migration,) = report["migrations"]
    assert migration["tag_bytes_wire"] > 0
    assert migration["data_bytes_wire"] == 0
    assert migration["vmm"]["status"] == "completed"
