"""A stock Debian kernel as the guest, with a program that lives on its tags, moved as it runs."""

import json

import pytest

from tests.support.linux_guest import linux_guest
from tests.support.vm_processes import tagalong

TIMEOUT_S = 900.0


@pytest.mark.timeout(TIMEOUT_S + 60)
def test_linux_guest_lives_on_its_tags_and_moves(machine_name: str) -> None:
    kernel, initrd = linux_guest()

    result = tagalong(
        "demo", "--guest", "linux", "--kernel", str(kernel), "--initrd", str(initrd),
        "--machine", machine_name, "--vcpus", "2", "--guest-args", "mib=2 forks=1", "--json",
        timeout_s=TIMEOUT_S,
    )  # fmt: skip

    assert result.returncode == 0, result.stdout + result.stderr
    report = json.loads(result.stdout)
    assert report["verified"] is True
    assert report["guest_failures"] == 0
    assert report["guest_progress_after"] > report["guest_progress_before"] > 0
    assert report["guest_faults_after"] > report["guest_faults_before"] > 0
    assert report["tagged_granules"] > 2 * (2 << 20) // 16 * 0.9
