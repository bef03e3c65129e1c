"""The same compiler builds the library for the other architecture."""

import platform
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from tagalong.lab import DEFAULT_KERNEL, SilentObserver
from tagalong.lab.cache import Cache
from tagalong.lab.setup import cross_built
from tests.support.lab_session import request

ROOT = Path(__file__).parents[2]
INSTALLED = ROOT / "src" / "tagalong" / "_lib"
EM_X86_64, EM_AARCH64 = 62, 183

# What was installed is the build for this host.
OTHERS = [
    (target, machine)
    for target, machine in (("x86_64", EM_X86_64), ("aarch64", EM_AARCH64))
    if target != platform.machine()
]


def built_for(target: str, folder: Path) -> Path:
    """Return the folder of a build for `target`: the lab's own, or one made in `folder`."""
    if target == "aarch64":
        return cross_built(ROOT, Cache(request(DEFAULT_KERNEL).folder), SilentObserver()).folder
    subprocess.run(
        [sys.executable, str(ROOT / "native" / "toolchain.py"),
         "--target", target, "--out", str(folder)],
        check=True, cwd=ROOT,
    )  # fmt: skip
    return folder


@pytest.mark.parametrize(("target", "machine"), OTHERS)
def test_toolchain_other_target_builds_library_and_the_same_guests(
    tmp_path: Path, target: str, machine: int
) -> None:
    built_in = built_for(target, tmp_path)

    header = (built_in / "libtagalong.so").read_bytes()[:20]
    assert struct.unpack_from("<H", header, 18) == (machine,)
    guests = {folder.name for folder in (ROOT / "guests").iterdir()}
    guests -= {"lib", "linux", "glibc", "guest.ld"}
    for name in guests:
        built, installed = built_in / f"{name}.elf", INSTALLED / f"{name}.elf"
        assert built.read_bytes() == installed.read_bytes(), "the build is not reproducible"
    for folder in (*(ROOT / "guests" / "linux").iterdir(), *(ROOT / "guests" / "glibc").iterdir()):
        name = f"{folder.parent.name}/{folder.name}"
        assert (built_in / name).read_bytes() == (INSTALLED / name).read_bytes()
    programs = {source.stem for source in (ROOT / "tests" / "programs").glob("*.c")}
    expected = guests | (programs if target == "aarch64" else set())
    assert {file.stem for file in built_in.glob("*.elf")} == expected
