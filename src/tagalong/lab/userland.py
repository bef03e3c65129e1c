"""The base of the lab's root file system: libc, busybox, CPython."""

import os
import re
import stat
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from tagalong.errors import LabSetupError
from tagalong.lab.bytecode import HOST_PYTHON, add_python
from tagalong.lab.cache import Record, identity_of
from tagalong.lab.cpio import CpioWriter
from tagalong.lab.deb import ArchiveMember, members_of, members_of_tar
from tagalong.lab.packages import USERLAND_PACKAGES

ARCHIVE = "userland.cpio"

# Dependencies of Python's packages that nothing in the lab uses. The kernel unpacks the whole
# archive at every boot, at about 100 MB/s.
_LEFT_OUT_PACKAGES = frozenset(
    ("dpkg", "tar", "libacl1", "libselinux1", "libpcre2-8-0", "libmd0", "gcc-12-base",
     "libtirpc3", "libtirpc-common", "libnsl2", "libkrb5-3", "libk5crypto3", "libkrb5support0",
     "libgssapi-krb5-2", "libkeyutils1", "libcom-err2", "libdb5.3", "media-types",
     "readline-common")
)  # fmt: skip
_LEFT_OUT = re.compile(
    r"(usr/share|var|usr/lib/[^/]+-linux-gnu/gconv"
    r"|usr/lib/python3[^/]*/(test|idlelib|lib2to3|pydoc_data|turtledemo|__pycache__))(/.*)?"
)

# The busybox commands that scripts and people expect on the PATH.
_APPLETS = """
    ash awk base64 basename cat chgrp chmod chown chroot clear cmp cp cut date dd df diff
    dirname dmesg du echo egrep env expr false fgrep find free grep gunzip gzip head hexdump
    hostname id ifconfig insmod ip kill killall less ln ls lsmod md5sum mkdir mkfifo mknod
    mktemp modprobe more mount mv nc netstat nproc od pgrep pidof ping pkill poweroff printf
    ps pwd readlink realpath reset rm rmdir rmmod sed seq setsid sh sha256sum sleep sort stat
    strings stty sync sysctl tail tar tee test time timeout top touch tr true truncate tty
    umount uname uniq unlink uptime vi wc wget which whoami xargs xxd yes zcat
"""

_FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "etc/hosts": "127.0.0.1 localhost lab\n",
    "etc/hostname": "lab\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
}
_INTERPRETER = re.compile(r"usr/(?:local/)?bin/python3\.(?P<minor>\d+)")
_PYTHON_COMMANDS = frozenset(("usr/bin/python3", "usr/local/bin/python3"))
_OLDEST_PYTHON_MINOR = 11

_FOLDERS = ("dev", "proc", "sys", "run", "tmp", "root", "mnt")


def made_from(own: Path | None) -> Record:
    """Return the inputs that determine the archive. Raises LabSetupError."""
    source = list(USERLAND_PACKAGES) if own is None else identity_of(own)
    return {"source": source, "bytecode": HOST_PYTHON}


def from_packages(debs: Iterable[Path]) -> Iterator[ArchiveMember]:
    """Yield the files of Debian packages that the lab needs. Raises LabSetupError."""
    for deb in debs:
        if deb.name.partition("_")[0] not in _LEFT_OUT_PACKAGES:
            yield from (m for m in members_of(deb) if not _LEFT_OUT.fullmatch(m.path))


def from_own(rootfs: Path) -> Iterator[ArchiveMember]:
    """Yield the files of the user's root file system, a folder or a tar archive.

    Raises LabSetupError if `rootfs` is neither.
    """
    if rootfs.is_dir():
        yield from _from_folder(rootfs)
        return
    try:
        with tarfile.open(rootfs) as archive:
            yield from members_of_tar(archive)
    except (OSError, tarfile.TarError) as error:
        raise LabSetupError(
            f"cannot use --rootfs {rootfs}: it is neither a folder nor a tar archive"
        ) from error


def write(members: Iterable[ArchiveMember], target: Path) -> str:
    """Write the archive `target` from `members` and the common files; return Python's "3.N".

    Raises LabSetupError if `members` lack Python or busybox.
    """
    # Two passes, because byte code needs Python's version, which the names tell.
    kept = {member.path: member for member in members}
    interpreter = _find_python(kept)
    python = interpreter.rpartition("python")[2]
    if "bin/busybox" not in kept and "usr/bin/busybox" not in kept:
        raise LabSetupError("cannot use this root file system: it has no /bin/busybox")
    with target.open("wb") as out:
        writer = CpioWriter(out)
        for member in kept.values():
            _add(writer, member, python)
        _add_common(writer, set(kept))
        if _PYTHON_COMMANDS.isdisjoint(kept):
            writer.add_symlink("usr/bin/python3", f"/{interpreter}")
        writer.close()
    return python


def _find_python(names: Iterable[str]) -> str:
    """Return the path of the newest Python among `names`."""
    found = (_INTERPRETER.fullmatch(name) for name in names)
    versions = {int(m["minor"]): m[0] for m in found if m}
    if not versions:
        raise LabSetupError("cannot use this root file system: it has no /usr/bin/python3.N")
    newest = max(versions)
    if newest < _OLDEST_PYTHON_MINOR:
        raise LabSetupError(
            f"cannot use this root file system: it has Python 3.{newest}, and 3.11 is needed"
        )
    return versions[newest]


def _add(writer: CpioWriter, member: ArchiveMember, python: str) -> None:
    if stat.S_ISLNK(member.mode):
        writer.add_symlink(member.path, member.data.decode())
    elif member.path.endswith(".py"):
        add_python(writer, member.path, member.data, mtime_s=member.mtime_s, python=python)
    else:
        writer.add_file(member.path, member.data, permissions=member.mode, mtime_s=member.mtime_s)


def _add_common(writer: CpioWriter, present: set[str]) -> None:
    for folder in _FOLDERS:
        writer.add_folder(folder)
    # The kernel opens it for PID 1 before any mount.
    writer.add_character_device("dev/console", 5, 1)
    for path, text in _FILES.items():
        if path not in present:
            writer.add_file(path, text.encode())
    busybox = "/bin/busybox" if "bin/busybox" in present else "/usr/bin/busybox"
    for applet in _APPLETS.split():
        if present.isdisjoint({f"bin/{applet}", f"usr/bin/{applet}"}):
            writer.add_symlink(f"usr/bin/{applet}", busybox)
    # If /bin is a link to /usr/bin, the loop above has added the shell.
    if present.isdisjoint({"bin", "bin/sh"}):
        writer.add_symlink("bin/sh", busybox)


def _from_folder(root: Path) -> Iterator[ArchiveMember]:
    for folder, folders, files in os.walk(root):
        links = [name for name in folders if Path(folder, name).is_symlink()]
        for name in sorted([*files, *links]):
            place = Path(folder, name)
            status = place.lstat()
            path = str(place.relative_to(root))
            if stat.S_ISLNK(status.st_mode):
                data = os.readlink(place).encode()
            elif stat.S_ISREG(status.st_mode):
                data = place.read_bytes()
            else:
                continue
            yield ArchiveMember(path, status.st_mode, data, max(int(status.st_mtime), 0))
