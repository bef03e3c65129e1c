"""A Linux guest whose VM is killed in the middle of its writes: what was flushed is on the disk."""

import signal
from pathlib import Path

import pytest

from tests.support.linux_guest import linux_guest_with
from tests.support.vm_processes import vm_process

TIMEOUT_S = 600.0
IMAGE_BYTES = 64 << 20
FILES = 6
WRITER = """
mke2fs /dev/vda >/dev/null && mount /dev/vda /mnt || echo "writer: FAIL"
number=0
while :; do
	seq $number 20000 | dd of=/mnt/file.$number bs=64k conv=fsync 2>/dev/null
	number=$((number + 1))
	echo "writer: flushed $number files"
done
"""
VERIFIER = f"""
e2fsck -fy /dev/vda
status=$?
[ $status -le 1 ] || echo "verifier: FAIL e2fsck $status"
mount -o ro /dev/vda /mnt
number=0 right=0
while [ $number -lt {FILES} ]; do
	seq $number 20000 | cmp -s - /mnt/file.$number && right=$((right + 1))
	number=$((number + 1))
done
echo "verifier: $right of $number files are whole"
"""


@pytest.mark.timeout(TIMEOUT_S)
def test_disk_of_a_vm_that_is_killed_has_all_files_that_its_guest_flushed(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    with image.open("wb") as file:
        file.truncate(IMAGE_BYTES)
    kernel, initrd = linux_guest_with(tmp_path, {"writer": WRITER, "verifier": VERIFIER})
    linux = ("--machine", "soft", "--kernel", str(kernel), "--initrd", str(initrd))

    def run(name: str) -> tuple[str, ...]:
        return (*linux, "--disk", str(image), "--append", f"console=ttyAMA0 quiet -- {name}")

    with vm_process(tmp_path, "killed", *run("writer")) as vm:
        vm.wait_for_console(f"writer: flushed {FILES} files")
        vm.signal(signal.SIGKILL)
        vm.status()
        assert "FAIL" not in vm.console
    with vm_process(tmp_path, "next", *run("verifier")) as vm:
        assert vm.status() == 0, vm.messages

        assert f"verifier: {FILES} of {FILES} files are whole" in vm.console, vm.console
        assert "FAIL" not in vm.console
