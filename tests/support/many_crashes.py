"""Any number of crash files: tombstones of a few bugs, KASAN's logs, and files that are none.

python -m tests.support.many_crashes FOLDER COUNT
"""

import random
import sys
from pathlib import Path

from tests.unit.explain import samples

BUGS = (
    ("consume", "0x5680", "Use After Free, 0 bytes into a 48-byte allocation at 0x77a4d2e0f0"),
    ("fill", "0x7a10", "Buffer Overflow, 0 bytes right of a 32-byte allocation at 0x77a4d2e0d0"),
    ("parse", "0x9c44", "Use After Free, 8 bytes into a 48-byte allocation at 0x77a4d2e0e8"),
    ("drop", "0xb120", "Buffer Underflow, 16 bytes left of a 64-byte allocation at 0x77a4d2e100"),
)
WORTHLESS_EVERY = 50
KERNEL_EVERY = 10


def kind_of(number: int) -> str:
    """Return what file `number` is: "none", "kernel", or the function of a bug."""
    if number % WORTHLESS_EVERY == WORTHLESS_EVERY - 1:
        return "none"
    if number % KERNEL_EVERY == KERNEL_EVERY - 1:
        return "kernel"
    return BUGS[random.Random(number).randrange(len(BUGS))][0]


def crash_file(number: int) -> bytes:
    """Return the content of file `number`: the same each time."""
    kind = kind_of(number)
    if kind == "none":
        return random.Random(number).randbytes(300)
    if kind == "kernel":
        return samples.KASAN_SW.replace("test/99", f"test/{number}").encode()
    name, offset, cause = next(bug for bug in BUGS if bug[0] == kind)
    tag = 1 + number % 15
    text = samples.TOMBSTONE.format(cause=cause, header="0" * 16)
    for old, new in (
        ("consume", name), ("5680", offset[2:]), ("0b000077", f"0{tag:x}000077"),
        ("pid: 4321", f"pid: {number}"), ("0xb000077", f"0x{tag:x}000077"),
    ):  # fmt: skip
        text = text.replace(old, new)
    return text.encode()


def write_crashes(folder: Path, count: int) -> None:
    """Write files 0 to count - 1, a thousand per folder."""
    for number in range(count):
        place = folder / f"{number // 1000:03}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"crash-{number:06}").write_bytes(crash_file(number))


if __name__ == "__main__":
    write_crashes(Path(sys.argv[1]), int(sys.argv[2]))
