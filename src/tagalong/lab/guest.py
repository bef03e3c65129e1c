"""A Linux guest from Debian's packages: its kernel, and a small root file system in memory.

The root has busybox, the drivers that a machine of ours has use for, the programs of guests/linux
and guests/glibc, and the C library of the latter. Nothing of it needs root, and nothing but the
packages is fetched.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import BinaryIO, Final

from tagalong._native import LIBRARY_FOLDER
from tagalong.errors import LabSetupError
from tagalong.lab import kernel, packages
from tagalong.lab.apt import Apt, system_mirror
from tagalong.lab.cache import Cache, CachedPiece, Record, digest_of_files
from tagalong.lab.cpio import CpioWriter
from tagalong.lab.deb import files_of
from tagalong.lab.debian import find_kernel
from tagalong.lab.observer import Observer

IMAGE: Final = kernel.IMAGE
INITRD: Final = "initrd.cpio"

LAB_ARCHIVE: Final = "guest.cpio"
LAB_PLACE: Final = "opt/guest"
"""The folder of the guest's files inside the lab."""

# Increase it when the same sources are to give another piece.
_FORM: Final = 3

_BUSYBOX: Final = "busybox"
_MODULES: Final = "modules"
_PROGRAMS: Final = LIBRARY_FOLDER / "linux"
_GLIBC_PROGRAMS: Final = LIBRARY_FOLDER / "glibc"
_SCRIPTS: Final = {
    "init": "guest_init.sh",
    "lib/guest/session": "guest_session.sh",
    "lib/guest/dhcp": "guest_dhcp.sh",
}
# Files of Debian's packages: the C library of guests/glibc, whose loader has its place in their
# header, and what repairs a disk before it is the root.
_FROM_PACKAGES: Final = {
    "lib/ld-linux-aarch64.so.1": "ld-linux-aarch64.so.1",
    "lib/aarch64-linux-gnu/libc.so.6": "libc.so.6",
    "bin/e2fsck": "e2fsck.static",
}
_PACKAGES: Final = ("libc6", "e2fsck-static")
_FOLDERS: Final = ("dev", "proc", "sys", "tmp", "root", "mnt", "etc")

# What a shell finds on its PATH; busybox knows more, by `busybox NAME`.
_APPLETS: Final = """
    awk basename cat chmod clear cmp cp cut date dd df dmesg du echo env expr false find free grep
    gunzip gzip head hexdump hostname id ifconfig insmod ip kill killall less ln ls lsmod md5sum
    mkdir mknod mktemp more mount mv nc nproc od pgrep pidof ping poweroff printf ps pwd reboot rm
    rmdir route sed seq sh sha256sum sleep sort stat stty swapoff swapon mkswap sync sysctl tail
    tar tee test time timeout top touch tr true umount uname uptime vi wc wget xargs yes
"""


@dataclass(frozen=True)
class GuestRequest:
    """Which guest to make. `folder`: the cache; `mirror`: None is that of the system's apt."""

    folder: Path
    kernel: str = packages.DEFAULT_KERNEL
    mirror: str | None = None


@dataclass(frozen=True)
class LinuxGuest:
    """A guest's files, in the cache, and the release of its kernel."""

    kernel: Path
    initrd: Path
    release: str


def set_up_guest(request: GuestRequest, observer: Observer) -> LinuxGuest:
    """Fetch and make what is missing, and return the guest.

    Raises LabSetupError; complete pieces stay in the cache.
    """
    return _GuestSetup(request, observer).guest()


class _GuestSetup:
    def __init__(self, request: GuestRequest, observer: Observer) -> None:
        self._request = request
        self._observer = observer
        self._cache = Cache(
            request.folder,
            lambda: observer.step("Waiting for another set-up of the same folder"),
        )

    def guest(self) -> LinuxGuest:
        parts, tools = self._parts(), self._tools()
        programs = [*sorted(_PROGRAMS.glob("*")), *sorted(_GLIBC_PROGRAMS.glob("*"))]

        def make(folder: Path) -> Record:
            with (folder / INITRD).open("wb") as out:
                write_root(out, parts.folder, tools.folder, programs)
            return {}

        made_from: Record = {
            "form": _FORM,
            "parts": parts.key,
            "tools": tools.key,
            "programs": digest_of_files(LIBRARY_FOLDER, programs),
            "scripts": [hashlib.sha256(_script(name)).hexdigest() for name in _SCRIPTS.values()],
            "applets": _APPLETS,
        }
        root = self._cache.piece("guest-root", made_from, make)
        return LinuxGuest(parts.folder / IMAGE, root.folder / INITRD, parts.text("release"))

    def _parts(self) -> CachedPiece:
        """Return the piece with the kernel, its modules, and busybox."""
        wanted = self._request.kernel

        def make(folder: Path) -> Record:
            self._observer.step(f"Fetching Linux {wanted} for the guest")
            found = find_kernel(self._apt, wanted, self._observer)
            names = packages.kernel_parts(self._apt.closure([found.exact], found.suite))
            debs = self._apt.download_only(names, found.suite, self._observer)
            release = kernel.extract_for_guest(debs, folder, folder / _MODULES)
            self._observer.step("Fetching busybox for the guest")
            self._apt.update((packages.STABLE,), self._observer)
            busybox = self._apt.download_only(("busybox-static",), packages.STABLE, self._observer)
            _extract(busybox, _BUSYBOX, folder / _BUSYBOX)
            self._apt.clean()
            return {"release": release, "version": found.version}

        return self._cache.piece("guest-parts", {"form": _FORM, "version": wanted}, make)

    def _tools(self) -> CachedPiece:
        """Return the piece with the C library and the checker of file systems."""

        def make(folder: Path) -> Record:
            self._observer.step("Fetching the C library and e2fsck for the guest")
            self._apt.update((packages.STABLE,), self._observer)
            debs = self._apt.download_only(_PACKAGES, packages.STABLE, self._observer)
            for name in _FROM_PACKAGES.values():
                _extract(debs, name, folder / name)
            self._apt.clean()
            return {}

        wanted: Record = {"form": _FORM, "files": list(_FROM_PACKAGES.values())}
        return self._cache.piece("guest-tools", wanted, make)

    @cached_property
    def _apt(self) -> Apt:
        mirror = self._request.mirror or system_mirror()
        folder = self._cache.folder("apt") / "guest"
        return Apt(folder, architecture="arm64", mirror=mirror)


def write_for_lab(guest: LinuxGuest, target: Path) -> None:
    """Write the archive `target` that puts the guest's files into LAB_PLACE in the lab."""
    with target.open("wb") as out:
        writer = CpioWriter(out)
        for file in (guest.kernel, guest.initrd):
            writer.add_file(f"{LAB_PLACE}/{file.name}", file.read_bytes())
        writer.close()


def write_root(out: BinaryIO, parts: Path, tools: Path, programs: Iterable[Path]) -> None:
    """Write the archive of the guest's root file system.

    `parts`: a folder with busybox, and the modules in the order in which they are loaded; `tools`:
    one with the C library, its loader, and e2fsck.
    """
    writer = CpioWriter(out)
    for folder in _FOLDERS:
        writer.add_folder(folder)
    # The kernel opens it for PID 1 before any mount.
    writer.add_character_device("dev/console", 5, 1)
    writer.add_file("bin/busybox", (parts / _BUSYBOX).read_bytes(), permissions=0o755)
    for applet in _APPLETS.split():
        writer.add_symlink(f"bin/{applet}", "busybox")
    for path, name in _SCRIPTS.items():
        writer.add_file(path, _script(name), permissions=0o755)
    for path, name in _FROM_PACKAGES.items():
        writer.add_file(path, (tools / name).read_bytes(), permissions=0o755)
    for module in sorted((parts / _MODULES).glob("*.ko")):
        writer.add_file(f"lib/guest/{module.name}", module.read_bytes())
    for program in programs:
        writer.add_file(f"bin/{program.name}", program.read_bytes(), permissions=0o755)
    writer.add_file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n")
    writer.close()


def _script(name: str) -> bytes:
    return (files("tagalong.lab") / name).read_bytes()


def _extract(debs: Iterable[Path], name: str, target: Path) -> None:
    """Write the one file of that name in Debian packages to `target`. Raises LabSetupError."""
    for deb in debs:
        for file in files_of(deb):
            path = Path(file.path)
            if path.name == name and path.parts[0] in ("bin", "sbin", "lib", "usr"):
                target.write_bytes(file.read())
                return
    raise LabSetupError(f"cannot find {name} in its package")
