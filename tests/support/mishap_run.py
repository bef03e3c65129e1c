"""Runs in the lab: lets tests/programs/mishap crash, and writes a tar of the cores to stdout.

python3 -m tests.support.mishap_run FOLDER FIRST COUNT ALLOCATOR...
"""

import io
import json
import os
import resource
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import zstandard

from tests.support.mishaps import ALLOCATORS, SCUDO_LIBRARY, TRUTH, VARIANTS

# Programs and libraries that the cores' stacks lead into.
MODULES = (Path("/lib/aarch64-linux-gnu/libc.so.6"),)
_SECONDS = 20
_SEEDS = 100_000


def main() -> None:
    folder, first, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    pattern = Path("/proc/sys/kernel/core_pattern").read_text().strip()
    assert pattern == "core", f"cores go to {pattern!r}"
    lines = []
    with tarfile.open(fileobj=sys.stdout.buffer, mode="w|") as archive:
        for allocator in sys.argv[4:]:
            number = ALLOCATORS.index(allocator)
            # Other seeds for each allocator, so that no two crash in the same way.
            for seed in range(first + number * _SEEDS, first + number * _SEEDS + count):
                truth = crash(folder, allocator, seed)
                if truth is None:
                    continue
                name = f"{allocator}-{seed:06}.core.zst"
                core = zstandard.ZstdCompressor(level=1).compress((folder / "core").read_bytes())
                add(archive, name, core)
                lines.append(json.dumps({"core": name, "allocator": allocator, **truth}))
        for module in MODULES:
            add(archive, module.name, module.read_bytes())
        add(archive, TRUTH, "".join(f"{line}\n" for line in lines).encode())


def crash(folder: Path, allocator: str, seed: int) -> dict[str, object] | None:
    """Run the program once; return its line of truth, None if it did not die of a signal."""
    (folder / "core").unlink(missing_ok=True)
    own = "simple" if allocator == "simple" else "libc"
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    done = subprocess.run(
        ["./mishap", own, str(seed)], cwd=folder, env=environment(folder, allocator),
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=_SECONDS, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, unlimited),
    )  # fmt: skip
    # A handler of the program's ends it by another signal.
    if done.returncode not in (-signal.SIGSEGV, -signal.SIGTRAP):
        return None
    fields = dict(field.split("=", 1) for field in done.stdout.decode().split())
    return {"cause": fields["cause"], **{k: int(fields[k], 0) for k in ("start", "tag", "size")}}


def environment(folder: Path, allocator: str) -> dict[str, str]:
    given = dict(os.environ)
    if allocator.startswith("glibc"):
        given["GLIBC_TUNABLES"] = "glibc.mem.tagging=3"
    if allocator.startswith("scudo"):
        # Its GWP-ASan handles SIGSEGV and sends it again: these cores have no address of the fault.
        given["LD_PRELOAD"] = str(folder / SCUDO_LIBRARY)
    given |= {f"MISHAP_{variant}": "1" for variant in VARIANTS.get(allocator, ())}
    return given


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


if __name__ == "__main__":
    main()
