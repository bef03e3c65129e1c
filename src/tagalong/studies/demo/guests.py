"""The guests of the demo: both live on their tags, and say what they find."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

# Operations between two progress lines: several lines per second, so that the demo is short.
_REPORT_OFTEN: Final = "report=512"

# The kernel's self-tests of its cryptography take longer than the rest of its start.
_KERNEL_WORDS: Final = "console=ttyAMA0 quiet cryptomgr.notests"

_CHURN_RAM_BYTES: Final = 64 << 20
_LINUX_RAM_BYTES: Final = 256 << 20


@dataclass(frozen=True)
class DemoGuest:
    """What the source runs, and what may be expected of it.

    `options`: of `tagalong run`, beside those of the machine. `reporters`: how many parts of the
    guest print progress lines. `start_timeout_s`: the first lines are there by then, even on a
    machine that is overloaded.
    """

    options: tuple[str, ...]
    reporters: int
    default_ram_bytes: int
    start_timeout_s: float


def churn_guest(arguments: str, vcpu_count: int) -> DemoGuest:
    """Return the bare-metal program `churn`, with these knobs."""
    words = f"{_REPORT_OFTEN} {arguments}".strip()
    return DemoGuest(
        ("--guest", "churn", "--guest-args", words), vcpu_count, _CHURN_RAM_BYTES, 60.0
    )


def linux_guest(kernel: Path, initrd: Path, arguments: str, vcpu_count: int) -> DemoGuest:
    """Return a Linux guest in which `tagkeeper` runs, with a thread per vCPU and these knobs."""
    program = f"tagkeeper threads={vcpu_count} signals=1 {arguments}".strip()
    options = (
        "--kernel", str(kernel), "--initrd", str(initrd),
        "--append", f"{_KERNEL_WORDS} -- {program}",
    )  # fmt: skip
    return DemoGuest(options, 1, _LINUX_RAM_BYTES, 600.0)
