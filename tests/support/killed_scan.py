"""A scan that is killed in the middle of a system call, and leaves what the disk has then.

    python -m tests.support.killed_scan FOLDER OUT CALL NUMBER

Scans FOLDER into OUT. At call NUMBER of `os.CALL` it does what a host does that loses its power: of
a write the first half is done, anything else is not done at all.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

from tagalong.scan.scanning import ScanPlan, scan


def die_at(call: str, number: int) -> None:
    """Let this process end by SIGKILL at a call of the os module."""
    original = getattr(os, call)
    seen = 0

    def dying(*args: Any, **keywords: Any) -> Any:
        nonlocal seen
        seen += 1
        if seen == number:
            if call == "write":
                original(args[0], bytes(args[1])[: len(args[1]) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **keywords)

    setattr(os, call, dying)


def main() -> None:
    """Scan, and die."""
    folder, out, call, number = sys.argv[1:]
    die_at(call, int(number))
    scan(ScanPlan((folder,), Path(out), workers=1))


if __name__ == "__main__":
    main()
