"""A Linux guest in which programs crash, and others hold still after a fault.

First tests/programs/mishap crashes with glibc's tagging, once per seed, and its cores come by the
console; then tests/programs/held.c holds still on each of two vCPUs. No lab is needed for that.
"""

import base64
import gzip
import json
import re
from collections.abc import Sequence
from pathlib import Path

from tagalong.lab.cpio import CpioWriter
from tests.support.linux_guest import linux_guest_with
from tests.support.mishaps import TRUTH, Mishap, build, read_truth

# Where the blocks of held.c begin in their page.
FIRST, SECOND = 256, 256 + 48
WORK = """
mkdir -p /tmp/mishaps && cd /tmp/mishaps
echo core >/proc/sys/kernel/core_pattern
ulimit -c unlimited
for seed in SEEDS; do
	rm -f core
	line=$(GLIBC_TUNABLES=glibc.mem.tagging=3 mishap libc $seed)
	[ -e core ] || continue
	echo "mishap: core $seed $line"
	gzip -1c core | base64
	echo "mishap: end"
done
taskset 1 held handler &
taskset 2 held system-call &
wait
"""
_CORE = re.compile(r"mishap: core (\d+) ([^\r\n]*)\r?\n(.*?)mishap: end", re.DOTALL)


def held_guest(folder: Path, seeds: Sequence[int]) -> tuple[str, ...]:
    """Return the options of `tagalong run` for it."""
    build(folder / "mishap")
    work = WORK.replace("SEEDS", " ".join(map(str, seeds)))
    kernel, initrd = linux_guest_with(folder, {"work": work}, ["held"])
    with initrd.open("ab") as out:
        writer = CpioWriter(out)
        writer.add_file("bin/mishap", (folder / "mishap").read_bytes(), permissions=0o755)
        writer.close()
    return (
        "--machine", "soft", "--vcpus", "2", "--kernel", str(kernel), "--initrd", str(initrd),
        "--append", "console=ttyAMA0 quiet nokaslr -- work",
    )  # fmt: skip


def written_cores(folder: Path, console: str) -> list[Mishap]:
    """Write the cores that a console shows into `folder`, with truth.jsonl, and return them."""
    lines = []
    for seed, truth, packed in _CORE.findall(console):
        name = f"glibc-{seed}.core"
        (folder / name).write_bytes(gzip.decompress(base64.b64decode(packed)))
        said = dict(field.split("=", 1) for field in truth.split())
        numbers = {key: int(said[key], 0) for key in ("start", "tag", "size")}
        known = {"core": name, "allocator": "glibc", "cause": said["cause"], **numbers}
        lines.append(f"{json.dumps(known)}\n")
    (folder / TRUTH).write_text("".join(lines))
    return read_truth(folder)
