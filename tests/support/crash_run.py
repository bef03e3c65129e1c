"""Runs crash, the kernel developers' own tool, on a dump of a Linux guest: `make crash`.

    python -m tests.support.crash_run

Debian's crash for arm64 runs under qemu-aarch64. Debian's package of the kernel's debug information
has the vmlinux that crash needs. All, 600 MB to download, is in a cache beside the lab's. The
guests, whose tagkeeper keeps two vCPUs busy, run on the embedded machine. Fails unless crash says
which kernel each is, and what its log says of that; and finds tagkeeper on both CPUs of
Linux 6.1. It cannot read the processes of 6.12, which is younger than crash 8.0.2.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tagalong.core import open_core
from tagalong.core.check import check_core
from tagalong.lab.apt import Apt, system_mirror
from tagalong.lab.cache import Cache, Record, default_folder
from tagalong.lab.deb import files_of, unpack
from tagalong.lab.guest import GuestRequest, set_up_guest
from tagalong.lab.observer import SilentObserver
from tagalong.lab.packages import STABLE, STABLE_BACKPORTS
from tests.support.fetch_qemu import fetch as fetch_qemu
from tests.support.vm_processes import until

_SUITES = {"6.1": STABLE, "6.12": STABLE_BACKPORTS}
_WITH_PROCESSES = "6.1"
_FORM = 1
_CRASH_S = 1200
_COMMANDS = "sys\nlog | grep version\nps\nquit\n"
_BUSY = "console=ttyAMA0 quiet -- tagkeeper mib=1 threads=2 rate=100"


def crash_folder(cache: Cache) -> Path:
    """Return a folder with crash for arm64 and its libraries."""

    def make(folder: Path) -> Record:
        for deb in _apt(cache).download(("crash",), STABLE, SilentObserver()):
            unpack(deb, folder)
        return {}

    return cache.piece("crash", {"form": _FORM, "suite": STABLE}, make).folder


def vmlinux(cache: Cache, release: str, suite: str) -> Path:
    """Return the kernel `release` of Debian with its debug information."""
    package, name = f"linux-image-{release}-dbg", f"vmlinux-{release}"

    def make(folder: Path) -> Record:
        (deb,) = _apt(cache).download_only((package,), suite, SilentObserver())
        for file in files_of(deb):
            if file.path.endswith(f"boot/{name}"):
                (folder / name).write_bytes(file.read())
        deb.unlink()
        return {}

    return cache.piece("vmlinux", {"form": _FORM, "package": package}, make).folder / name


def _apt(cache: Cache) -> Apt:
    apt = Apt(cache.folder("apt"), architecture="arm64", mirror=system_mirror())
    apt.update((STABLE, STABLE_BACKPORTS), SilentObserver())
    return apt


def dump_of_guest(kernel: str, folder: Path) -> Path:
    """Return a dump of a Linux guest whose tagkeeper runs on both vCPUs."""
    guest = set_up_guest(GuestRequest(default_folder(), kernel=kernel), SilentObserver())
    console, control, core = (folder / name for name in ("console", "guest.sock", "guest.core"))
    command: list[str | Path] = [
        sys.executable, "-m", "tagalong", "run", "--machine", "soft", "--vcpus", "2", "--ram",
        "128M", "--kernel", guest.kernel, "--initrd", guest.initrd, "--append", _BUSY,
        "--control", control,
    ]  # fmt: skip
    with (
        console.open("wb") as out,
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out) as vm,
    ):
        try:
            until(lambda: b"tagkeeper: progress" in console.read_bytes(), "the guest's tagkeeper")
            subprocess.run(
                [sys.executable, "-m", "tagalong", "dump", control, core],
                check=True, stdout=subprocess.DEVNULL,
            )  # fmt: skip
        finally:
            vm.kill()
    return core


def run_crash(core: Path, suite: str, folder: Path) -> str:
    """Return what crash says of a dump, with the options that `tagalong check` names."""
    with open_core(core) as found:
        verdict, kernel = check_core(found).kernel, found.vmcoreinfo
    assert kernel is not None, "no VMCOREINFO"
    assert verdict is not None
    assert verdict.crash_reason is None, verdict.crash_reason
    cache = Cache(default_folder().parent / "crash")
    tools = crash_folder(cache)
    libraries = ":".join(str(tools / each / "aarch64-linux-gnu") for each in ("lib", "usr/lib"))
    loader = next(tools.glob("**/ld-linux-aarch64.so.1"))
    (folder / "commands").write_text(_COMMANDS)
    command: list[str | Path] = [
        fetch_qemu(), "-L", tools, loader, "--library-path", libraries, tools / "usr/bin/crash",
        *verdict.crash_options.split(), "-i", folder / "commands",
        vmlinux(cache, kernel.osrelease, suite), core,
    ]  # fmt: skip
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, errors="replace", timeout=_CRASH_S, check=False,
    )  # fmt: skip
    for words in (f"RELEASE: {kernel.osrelease}", f"Linux version {kernel.osrelease}"):
        assert words in done.stdout, done.stdout
    return done.stdout


def main() -> None:
    """Dump guests, show what crash says of them, and fail if that is not what is there."""
    for kernel, suite in _SUITES.items():
        with tempfile.TemporaryDirectory(prefix="crash-") as name:
            said = run_crash(dump_of_guest(kernel, Path(name)), suite, Path(name))
        print(said)
        found = re.findall(r"^> .* tagkeeper$", said, re.MULTILINE)
        assert len(found) == 2 or kernel != _WITH_PROCESSES, "tagkeeper is not on both CPUs"


if __name__ == "__main__":
    main()
