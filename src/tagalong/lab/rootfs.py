"""A root file system of Debian's packages for a Linux guest: an image for its disk.

The packages are unpacked and not installed: apt resolves what they depend on, none of their
scripts runs, and what these would have done is done here as far as a guest needs it. So it needs
no root, and the same packages give the same files.
"""

import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Final

from tagalong._native import LIBRARY_FOLDER
from tagalong.errors import LabSetupError
from tagalong.files import NewFile
from tagalong.lab import packages
from tagalong.lab.apt import Apt, system_mirror
from tagalong.lab.cache import Cache, CachedPiece, Record
from tagalong.lab.deb import members_of
from tagalong.lab.e2fs import E2fsTools, make_ext4
from tagalong.lab.observer import Observer

ROOTFS_BYTES: Final = 512 << 20

ROOTFS_PACKAGES: Final = (
    "base-files", "bash", "busybox-static", "coreutils", "dash", "diffutils", "e2fsprogs",
    "findutils", "grep", "gzip", "iproute2", "iputils-ping", "less", "libc6", "mawk", "mount",
    "ncurses-base", "netbase", "netcat-openbsd", "procps", "sed", "tar", "util-linux",
)  # fmt: skip
"""What every root file system has, with all that it depends on."""

# Increase it when the same packages are to give other files.
_FORM: Final = 1
_LABEL: Final = "root"
_TREE: Final = "tree"

# Debian 12 has no other files in these folders: each is a link to the one of the same name in /usr.
_MERGED: Final = ("bin", "sbin", "lib")
_LEFT_OUT: Final = (
    "usr/share/doc/", "usr/share/man/", "usr/share/locale/", "usr/share/info/",
    "usr/share/lintian/", "usr/share/bash-completion/", "usr/share/bug/",
)  # fmt: skip
_FOLDERS: Final = ("dev", "proc", "sys", "run", "tmp", "mnt", "root", "home", "var/log", "var/tmp")
_SCRIPTS: Final = {
    "usr/sbin/init": "rootfs_init.sh",
    "usr/lib/guest/session": "guest_session.sh",
    "usr/lib/guest/dhcp": "guest_dhcp.sh",
}
_PROGRAM_FOLDERS: Final = ("linux", "glibc")
_TEXTS: Final = {
    "etc/passwd": "root::0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    "etc/group": "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n",
    "etc/hostname": "guest\n",
    "etc/hosts": "127.0.0.1 localhost guest\n::1 localhost\n",
    "etc/fstab": "/dev/vda / ext4 defaults 0 1\n",
}
# What the packages' scripts would have chosen among several.
_ALTERNATIVES: Final = {
    "usr/bin/awk": "mawk",
    "usr/bin/nc": "nc.openbsd",
    "usr/bin/pager": "less",
}


@dataclass(frozen=True)
class RootfsRequest:
    """Which root file system to make, and where.

    `folder`: the cache; `image`: the file to write, replaced if it is there; `extra`: Debian
    packages beside ROOTFS_PACKAGES; `mirror`: None is that of the system's apt.
    """

    folder: Path
    image: Path
    size_bytes: int = ROOTFS_BYTES
    extra: Sequence[str] = ()
    mirror: str | None = None


@dataclass(frozen=True)
class Rootfs:
    """An image that was made, its size, what of it takes space, and the packages by version."""

    image: Path
    size_bytes: int
    disk_bytes: int
    packages: Sequence[str]


def make_rootfs(request: RootfsRequest, observer: Observer) -> Rootfs:
    """Fetch what is missing, and write the image.

    Raises LabSetupError, HostError for a name that cannot be written; there is no image then.
    """
    return _RootfsSetup(request, observer).rootfs()


class _RootfsSetup:
    def __init__(self, request: RootfsRequest, observer: Observer) -> None:
        self._request = request
        self._observer = observer
        self._cache = Cache(
            request.folder,
            lambda: observer.step("Waiting for another set-up of the same folder"),
        )

    def rootfs(self) -> Rootfs:
        request = self._request
        image = NewFile(request.image)
        try:
            image.set_size(request.size_bytes)
            unpacked = self._unpacked()
            self._observer.step(f"Making {request.image}")
            # Links are made in the folder in which the files are: no link leads to another disk.
            with tempfile.TemporaryDirectory(dir=self._cache.root) as scratch:
                tree = Path(scratch) / _TREE
                shutil.copytree(
                    unpacked.folder / _TREE, tree, symlinks=True, copy_function=_link_to
                )
                add_own_files(tree)
                tools = E2fsTools(self._cache, lambda: self._mirror, self._observer)
                make_ext4(tools, tree, image.fd, _LABEL)
            written = image.publish()
        finally:
            image.close()
        names = unpacked.facts["packages"]
        assert isinstance(names, list)  # noqa: S101 (for the type checker: made below)
        return Rootfs(written.path, written.size_bytes, written.disk_bytes, names)

    def _unpacked(self) -> CachedPiece:
        """Return the piece with the files of all packages."""
        wanted = sorted({*ROOTFS_PACKAGES, *self._request.extra})

        def make(folder: Path) -> Record:
            self._observer.step("Fetching Debian's packages for the root file system")
            apt_folder = self._cache.folder("apt") / "rootfs"
            apt = Apt(apt_folder, architecture="arm64", mirror=self._mirror)
            apt.update((packages.STABLE,), self._observer)
            archives = apt.closure(wanted, packages.STABLE)
            debs = apt.download(wanted, packages.STABLE, self._observer)
            self._observer.step("Unpacking them")
            unpack_tree(debs, folder / _TREE)
            apt.clean()
            return {"packages": sorted(f"{each.package} {each.version}" for each in archives)}

        return self._cache.piece("rootfs", {"form": _FORM, "packages": wanted}, make)

    @cached_property
    def _mirror(self) -> str:
        return self._request.mirror or system_mirror()


def unpack_tree(debs: Iterable[Path], tree: Path) -> None:
    """Write the files of Debian packages below the folder `tree`, which is made.

    Folders that Debian has merged into /usr are links. Raises LabSetupError, also for a package
    with a name that leads out of the folder.
    """
    for name in _MERGED:
        (tree / "usr" / name).mkdir(parents=True)
        (tree / name).symlink_to(f"usr/{name}")
    for deb in debs:
        for member in members_of(deb):
            if member.path.startswith(_LEFT_OUT):
                continue
            if ".." in Path(member.path).parts:
                raise LabSetupError(f"cannot unpack {deb.name}: it has a file {member.path!r}")
            target = tree / _merged(member.path)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            if stat.S_ISLNK(member.mode):
                target.symlink_to(os.fsdecode(member.data))
            else:
                target.write_bytes(member.data)
                target.chmod(stat.S_IMODE(member.mode))
    for name in _FOLDERS:
        (tree / name).mkdir(parents=True, exist_ok=True)


def add_own_files(tree: Path) -> None:
    """Add to a tree what no package brings: accounts, PID 1, and the programs of guests/."""
    for path, text in _TEXTS.items():
        _write(tree / path, text.encode())
    for path, name in _SCRIPTS.items():
        _write(tree / path, (files("tagalong.lab") / name).read_bytes(), permissions=0o755)
    for folder in _PROGRAM_FOLDERS:
        for program in sorted((LIBRARY_FOLDER / folder).glob("*")):
            target = tree / "usr" / "bin" / program.name
            _write(target, program.read_bytes(), permissions=0o755)
    for path, name in _ALTERNATIVES.items():
        if (tree / path).with_name(name).exists() and not (tree / path).exists():
            (tree / path).symlink_to(name)


def _merged(path: str) -> str:
    first = path.partition("/")[0]
    return f"usr/{path}" if first in _MERGED else path


def _write(target: Path, data: bytes, *, permissions: int = 0o644) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    # What is there may be a link to the cache's own file, which stays as it is.
    target.unlink(missing_ok=True)
    target.write_bytes(data)
    target.chmod(permissions)


def _link_to(source: str, target: str) -> str:
    os.link(source, target, follow_symlinks=False)
    return target
