"""What Linux does with disks: discard, a disk that is only read, errors of the image's own disk."""

import errno
import os
import subprocess
from pathlib import Path

import pytest

from tests.support.linux_guest import linux_guest_with
from tests.support.vm_processes import TAGALONG, TIMEOUT_S, Qmp, until

MIB = 1 << 20
# A limit for the files of its process, which RAM is one of: a write behind it fails, as on a disk
# that breaks. The image is larger, and sparse.
LIMIT_BLOCKS = 300 * MIB // 512
BEYOND_MIB = 310
WORK = f"""
mke2fs /dev/vda 8192 >/dev/null && mount /dev/vda /mnt || echo "work: FAIL mount"
head -c 2097152 /dev/urandom >/mnt/large && sync && echo "work: filled"
read answer
rm /mnt/large && sync && fstrim /mnt && echo "work: trimmed"
umount /mnt && e2fsck -fn /dev/vda >/dev/null && echo "work: clean"
read answer
dd if=/dev/zero of=/dev/vdb bs=4096 count=1 2>/dev/null && echo "work: FAIL wrote a disk to read"
dd if=/dev/urandom of=/dev/vda bs=65536 count=1 seek=$(({BEYOND_MIB} * 16)) conv=fsync \
	2>/dev/null && echo "work: FAIL wrote beyond the limit"
echo "work: refused"
dd if=/dev/urandom of=/dev/vda bs=65536 count=1 conv=fsync 2>/dev/null && echo "work: still writes"
"""


@pytest.mark.timeout(600)
def test_linux_trims_its_disk_and_is_told_of_errors(tmp_path: Path) -> None:
    writable, readable = tmp_path / "disk.img", tmp_path / "data.img"
    with writable.open("wb") as file:
        file.truncate((BEYOND_MIB + 4) * MIB)
    readable.write_bytes(os.urandom(64 << 10))
    kernel, initrd = linux_guest_with(tmp_path, {"work": WORK})
    control, console = tmp_path / "c.sock", tmp_path / "console"
    command = [
        "sh", "-c", f'ulimit -f {LIMIT_BLOCKS}; exec "$@"', "sh",
        *TAGALONG, "run", "--machine", "soft", "--console", "stdio", "--control", str(control),
        "--kernel", str(kernel), "--initrd", str(initrd), "--disk", str(writable),
        "--disk", f"{readable},readonly", "--append", "console=ttyAMA0 quiet -- work",
    ]  # fmt: skip
    with console.open("wb") as out:
        vm = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=out)

    def wait_for(text: str) -> None:
        until(lambda: text in said() or vm.poll() is not None, text)
        assert text in said()

    def said() -> str:
        return console.read_text("ascii", "replace")

    def go_on() -> None:
        assert vm.stdin is not None
        vm.stdin.write(b"\n")
        vm.stdin.flush()

    try:
        wait_for("work: filled")
        filled = writable.stat().st_blocks
        with Qmp(control) as qmp:
            go_on()
            wait_for("work: clean")
            trimmed = writable.stat().st_blocks
            go_on()
            events = qmp.rest()  # until the guest powers off
        status = vm.wait(TIMEOUT_S)
    finally:
        vm.kill()
        vm.communicate()

    assert "FAIL" not in said(), said()
    for text in ("work: trimmed", "work: refused", "work: still writes"):
        assert text in said(), said()
    assert (filled - trimmed) * 512 > 3 * MIB // 2
    errors = [event["data"] for event in events if event["event"] == "BLOCK_IO_ERROR"]
    assert errors, events
    first = errors[0]
    assert isinstance(first, dict)
    assert (first["device"], first["operation"]) == ("disk0", "write")
    assert first["reason"] == os.strerror(errno.EFBIG)
    assert status == 0
