"""The core that Linux writes when tests/programs/crash.c dies, in the lab.

    python -m tests.support.linux_core FOLDER

writes FOLDER/core.
"""

import resource
import signal
import subprocess
import sys
from pathlib import Path

from tagalong._native import LIBRARY_FOLDER

# What the program does.
TAGGED = 0x5000_0000_0000
TAGGED_BYTES = 3 * 4096
PLAIN = 0x5000_0001_0000
CRASHED_AT = TAGGED + 5 * 16
CRASHED_WITH_TAG = 6
SEGV_MTESERR = 9
CONTROL = 0x7FFF3


def tag_of(granule: int) -> int:
    return granule % 16


def byte_of(number: int) -> int:
    """Return byte `number` of each page."""
    return number % 251


def write(folder: Path) -> Path:
    """Let the program die in `folder` and return its core."""
    pattern = Path("/proc/sys/kernel/core_pattern").read_text().strip()
    assert pattern == "core", f"cores go to {pattern!r}"
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    done = subprocess.run(
        [str(LIBRARY_FOLDER / "crash.elf")], cwd=folder, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, unlimited),
    )  # fmt: skip
    assert done.returncode == -signal.SIGSEGV
    return folder / "core"


if __name__ == "__main__":
    write(Path(sys.argv[1]))
