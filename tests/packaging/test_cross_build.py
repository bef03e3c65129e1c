"""The same compiler builds the library for the other architecture."""

import os
import platform
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from tagalong.lab import default_folder

ROOT = Path(__file__).parents[2]
INSTALLED = ROOT / "src" / "tagalong" / "_lib"
EM_X86_64, EM_AARCH64 = 62, 183

# What was installed is the build for this host.
OTHERS = [
    (target, machine)
    for target, machine in (("x86_64", EM_X86_64), ("aarch64", EM_AARCH64))
    if target != platform.machine()
]


def environment() -> dict[str, str]:
    """Share the lab's compiler cache, if there is one: a C library takes a minute to build."""
    cache = default_folder() / "zig"
    if not cache.exists():
        return {**os.environ}
    caches = dict.fromkeys(("ZIG_GLOBAL_CACHE_DIR", "ZIG_LOCAL_CACHE_DIR"), str(cache))
    return {**caches, **os.environ}


@pytest.mark.parametrize(("target", "machine"), OTHERS)
def test_toolchain_other_target_builds_library_and_the_same_guests(
    tmp_path: Path, target: str, machine: int
) -> None:
    subprocess.run(
        [sys.executable, str(ROOT / "native" / "toolchain.py"),
         "--target", target, "--out", str(tmp_path)],
        check=True, cwd=ROOT, env=environment(),
    )  # fmt: skip

    header = (tmp_path / "libtagalong.so").read_bytes()[:20]
    assert struct.unpack_from("<H", header, 18) == (machine,)
    guests = {folder.name for folder in (ROOT / "guests").iterdir()}
    guests -= {"lib", "linux", "glibc", "guest.ld"}
    for name in guests:
        built, installed = tmp_path / f"{name}.elf", INSTALLED / f"{name}.elf"
        assert built.read_bytes() == installed.read_bytes(), "the build is not reproducible"
    for folder in (*(ROOT / "guests" / "linux").iterdir(), *(ROOT / "guests" / "glibc").iterdir()):
        name = f"{folder.parent.name}/{folder.name}"
        assert (tmp_path / name).read_bytes() == (INSTALLED / name).read_bytes()
    programs = {source.stem for source in (ROOT / "tests" / "programs").glob("*.c")}
    expected = guests | (programs if target == "aarch64" else set())
    assert {file.stem for file in tmp_path.glob("*.elf")} == expected
