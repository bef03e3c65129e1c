"""Compile the native library, the guest programs and the tests' programs with `zig cc`.

Zig comes as the wheel `ziglang`; it carries a C compiler, an assembler and a linker for
every target, so that a machine with nothing but python3 builds the host's library, the
guests' A64 programs and the routines of native/arm64, and cross-builds the library for arm64.

    python native/toolchain.py [--target x86_64|aarch64] [--out FOLDER]
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

LIBRARY = "libtagalong.so"
ROUTINES = "routines.bin"
LINUX_PROGRAMS = "linux"
GLIBC_PROGRAMS = "glibc"
BESIDE = "libtagalong-beside.so"

# glibc 2.17 is what manylinux2014 promises: the library then loads on any Linux of today.
_GLIBC = "2.17"

# The preloaded library shares a process with a VMM of Debian 12 or newer. With this glibc, dlsym
# and threads are in libc itself, which is then the only library that it needs.
_BESIDE_GLIBC = "2.34"

_COMMON_FLAGS = ("-std=c11", "-O2", "-g0", "-Wall", "-Wextra", "-Werror", "-fno-sanitize=all")

# For tests: undefined behaviour ends the process with its place in the source. Not optimised,
# because that is what building it costs.
_SANITISER_FLAGS = ("-g1", "-O0", "-fsanitize=undefined", "-fno-sanitize-trap=undefined")

_LIBRARY_FLAGS = (
    *_COMMON_FLAGS,
    "-fPIC",
    "-shared",
    "-fvisibility=hidden",
    "-fno-strict-aliasing",
    "-fomit-frame-pointer",
)

# The guests run where FP and SIMD are off. -mno-implicit-float alone still lets variadic
# functions save vector registers; "-neon" inside -mcpu is undone by v8_5a, which zig puts
# after it, so the features are taken away at the very end.
_GUEST_FLAGS = (
    *_COMMON_FLAGS,
    "-target",
    "aarch64-freestanding-none",
    "-mcpu=generic+v8_5a+mte",
    "-mno-implicit-float",
    *("-Xclang", "-target-feature", "-Xclang", "-neon"),
    *("-Xclang", "-target-feature", "-Xclang", "-fp-armv8"),
    "-ffreestanding",
    "-fno-stack-protector",
    "-fno-pic",
    "-nostdlib",
    "-static",
    "-Wl,--build-id=none",
    "-Wl,-z,max-page-size=4096",
)

_LINUX_FLAGS = (
    *_COMMON_FLAGS,
    "-mcpu=generic+v8_5a+mte",
    "-D_GNU_SOURCE",
    "-Wl,--strip-all",
)

# Programs for Linux, in a guest or in the lab: static, because their C library is not here.
_PROGRAM_FLAGS = (*_LINUX_FLAGS, "-target", "aarch64-linux-musl", "-static")

# Those that are about the GNU C library itself, of Debian 12 or newer, which the guest has.
_GLIBC_PROGRAM_FLAGS = (*_LINUX_FLAGS, "-target", "aarch64-linux-gnu.2.36")


def wheel_platform(machine: str | None = None) -> str:
    """Return the wheel's platform tag for `machine` (default: this host)."""
    return f"manylinux2014_{machine or platform.machine()}"


def build_library(
    root: Path, out: Path, machine: str | None = None, *, sanitised: bool = False
) -> Path:
    """Compile native/ for `machine` ("x86_64" or "aarch64") into out/libtagalong.so.

    `sanitised`: with the sanitiser for undefined behaviour, for tests.
    """
    machine = machine or platform.machine()
    out.mkdir(parents=True, exist_ok=True)
    arm64 = root / "native" / "arm64"
    apart = {arm64, root / "native" / "beside"}
    sources = sorted(p for p in (root / "native").rglob("*.c") if apart.isdisjoint(p.parents))
    if machine == "aarch64":
        sources += sorted(arm64.glob("*.[cS]"))
    target = out / LIBRARY
    _zig_cc(
        root,
        (
            *_LIBRARY_FLAGS,
            *(_SANITISER_FLAGS if sanitised else ()),
            *("-target", f"{machine}-linux-gnu.{_GLIBC}", f"-I{root / 'native'}"),
        ),
        sources,
        target,
    )
    return target


def build_beside(root: Path, out: Path) -> Path:
    """Compile native/beside, for arm64 on every host, into out/libtagalong-beside.so."""
    out.mkdir(parents=True, exist_ok=True)
    target = out / BESIDE
    flags = (*_LIBRARY_FLAGS, "-target", f"aarch64-linux-gnu.{_BESIDE_GLIBC}", "-Wl,--strip-all")
    _zig_cc(root, flags, sorted((root / "native" / "beside").glob("*.c")), target)
    return target


def build_routines(root: Path, out: Path) -> Path:
    """Assemble native/arm64/routines.S into out/routines.bin: the bytes, for any address."""
    out.mkdir(parents=True, exist_ok=True)
    target = out / ROUTINES
    with tempfile.TemporaryDirectory(dir=out) as folder:
        assembled = Path(folder) / "routines.o"
        source = root / "native" / "arm64" / "routines.S"
        _zig_cc(root, ("-target", "aarch64-freestanding-none", "-c"), [source], assembled)
        partial = Path(folder) / ROUTINES
        _zig(root, ("objcopy", "-O", "binary", str(assembled), str(partial)), target)
        partial.replace(target)
    return target


def build_guests(root: Path, out: Path) -> list[Path]:
    """Compile each folder guests/NAME into out/NAME.elf, linked with guests/lib."""
    out.mkdir(parents=True, exist_ok=True)
    folder = root / "guests"
    library = sorted((folder / "lib").glob("*.[cS]"))
    built = []
    others = {"lib", LINUX_PROGRAMS, GLIBC_PROGRAMS}
    for program in sorted(p for p in folder.iterdir() if p.is_dir() and p.name not in others):
        target = out / f"{program.name}.elf"
        flags = (*_GUEST_FLAGS, f"-I{folder / 'lib'}", f"-Wl,-T,{folder / 'guest.ld'}")
        _zig_cc(root, flags, [*library, *sorted(program.glob("*.[cS]"))], target)
        built.append(target)
    return built


def build_linux_programs(root: Path, out: Path) -> list[Path]:
    """Compile guests/linux/NAME and guests/glibc/NAME into folders of `out`, for Linux on arm64.

    The former are static, the latter need the GNU C library.
    """
    built = []
    kinds = {LINUX_PROGRAMS: _PROGRAM_FLAGS, GLIBC_PROGRAMS: _GLIBC_PROGRAM_FLAGS}
    for kind, flags in kinds.items():
        (out / kind).mkdir(parents=True, exist_ok=True)
        for program in sorted(p for p in (root / "guests" / kind).iterdir() if p.is_dir()):
            target = out / kind / program.name
            _zig_cc(root, flags, sorted(program.glob("*.c")), target)
            built.append(target)
    return built


def build_programs(root: Path, out: Path) -> list[Path]:
    """Compile each tests/programs/NAME.c into out/NAME.elf, for Linux on arm64, static."""
    out.mkdir(parents=True, exist_ok=True)
    built = []
    for source in sorted((root / "tests" / "programs").glob("*.c")):
        target = out / f"{source.stem}.elf"
        _zig_cc(root, _PROGRAM_FLAGS, [source], target)
        built.append(target)
    return built


def build_package(root: Path) -> None:
    """Build what the installed package carries, into src/tagalong/_lib."""
    out = root / "src" / "tagalong" / "_lib"
    build_library(root, out)
    build_routines(root, out)
    build_beside(root, out)
    build_guests(root, out)
    build_linux_programs(root, out)


def _zig_cc(root: Path, flags: Sequence[str], sources: Sequence[Path], target: Path) -> None:
    # Built beside and renamed: a killed build leaves no half library under the final name,
    # and a process that has the old one mapped keeps it.
    partial = target.with_name(f".{target.name}.partial")
    try:
        _zig(root, ("cc", *flags, "-o", str(partial), *map(str, sources)), target)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def _zig(root: Path, arguments: Sequence[str], target: Path) -> None:
    environment = dict(os.environ)
    environment.setdefault("ZIG_GLOBAL_CACHE_DIR", str(root / "build" / "zig-cache"))
    environment.setdefault("ZIG_LOCAL_CACHE_DIR", str(root / "build" / "zig-cache"))
    try:
        subprocess.run([sys.executable, "-m", "ziglang", *arguments], check=True, env=environment)
    except subprocess.CalledProcessError as error:
        raise SystemExit(
            f"zig {arguments[0]} failed on {target.name} (exit {error.returncode})"
        ) from error


def main() -> None:
    """Build from the command line, for a cross build or without an installation."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--target", choices=("x86_64", "aarch64"), default=platform.machine())
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    root = Path(__file__).resolve().parent.parent
    if arguments.out is None and arguments.target == platform.machine():
        build_package(root)
        return
    out = arguments.out or root / "build" / arguments.target
    build_library(root, out, arguments.target)
    build_routines(root, out)
    build_beside(root, out)
    build_guests(root, out)
    build_linux_programs(root, out)
    if arguments.target == "aarch64":
        build_programs(root, out)


if __name__ == "__main__":
    main()
