"""A Linux guest of KVM with 32 vCPUs, each of which runs before and after the guest moves.

The lab has two CPUs, on which 32 vCPUs have little time each: the guest's kernel is told not to
take that for a failure of its own, which it would report line by line.
"""

from pathlib import Path

import pytest

from tests.support.linux_guest import linux_guest_with
from tests.support.vm_processes import tagalong, vm_process

pytestmark = pytest.mark.lab

VCPUS = 32
TIMEOUT_S = 1500.0
WAIT_S = TIMEOUT_S / 4
RAN = f"count: round done on {VCPUS} of {VCPUS} CPUs: 0-{VCPUS - 1}"
PATIENT = "nowatchdog rcupdate.rcu_cpu_stall_suppress=1"

# Each round starts a program on each CPU.
COUNT = """
while :; do
	ran=0 cpu=0
	while [ $cpu -lt $(nproc) ]; do
		busybox taskset -c $cpu true && ran=$((ran + 1))
		cpu=$((cpu + 1))
	done
	echo "count: round done on $ran of $(nproc) CPUs: $(cat /sys/devices/system/cpu/online)"
	sleep 1
done
"""


@pytest.mark.timeout(TIMEOUT_S)
def test_linux_guest_runs_on_each_of_32_vcpus_before_and_after_it_moves(tmp_path: Path) -> None:
    kernel, initrd = linux_guest_with(tmp_path, {"count": COUNT})
    address = f"unix:{tmp_path / 'in'}"
    linux = ("--kernel", str(kernel), "--initrd", str(initrd), "--vcpus", str(VCPUS))
    words = f"console=ttyAMA0 quiet cryptomgr.notests {PATIENT} -- count"
    with vm_process(tmp_path, "a", "--machine", "kvm", *linux, "--append", words) as source:
        source.wait_for_console(RAN, 1, WAIT_S)
        with vm_process(tmp_path, "b", "--machine", "kvm", "--incoming", address) as there:
            there.incoming_uri()
            moved = tagalong(
                "migrate", str(source.control), address, "--verify", "--max-downtime", "60000",
                timeout_s=WAIT_S,
            )  # fmt: skip
            assert moved.returncode == 0, moved.stderr
            there.wait_for_console(RAN, 2, WAIT_S)
