"""A Linux guest whose processes hold still after a fault: tests/programs/held.c, one per vCPU."""

from pathlib import Path

from tests.support.linux_guest import linux_guest_with

# Where its blocks begin in their page.
FIRST, SECOND = 256, 256 + 48
WORK = """
taskset 1 held handler &
taskset 2 held system-call &
wait
"""


def held_guest(folder: Path) -> tuple[str, ...]:
    """Return the options of `tagalong run` for it."""
    kernel, initrd = linux_guest_with(folder, {"work": WORK}, ["held"])
    return (
        "--machine", "soft", "--vcpus", "2", "--kernel", str(kernel), "--initrd", str(initrd),
        "--append", "console=ttyAMA0 quiet nokaslr -- work",
    )  # fmt: skip
