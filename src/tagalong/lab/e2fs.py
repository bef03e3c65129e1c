"""The tools of ext4 (e2fsprogs), which make and check file systems in plain files, without root.

Those of the host are used, or they are fetched from Debian's packages.
"""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tagalong.lab import packages
from tagalong.lab.apt import Apt, host_architecture
from tagalong.lab.cache import Cache, Record
from tagalong.lab.deb import unpack
from tagalong.lab.observer import Observer
from tagalong.lab.tools import output_of
from tagalong.lab.unpacked import unpacked_command

_PACKAGE: Final = "e2fsprogs"
_FORM: Final = 1
# They are for root in most systems, so they may be on no user's PATH.
_FOLDERS: Final = ("/usr/sbin", "/sbin")
_ROOT_IDS: Final = ("uid", "gid")

# What Debian's own configuration says of ext4, so that no host's says something else.
_CONFIGURATION: Final = """[defaults]
base_features = sparse_super,large_file,filetype,resize_inode,dir_index,ext_attr
default_mntopts = acl,user_xattr
blocksize = 4096
inode_size = 256
inode_ratio = 16384
[fs_types]
ext4 = {
	features = has_journal,extent,huge_file,flex_bg,metadata_csum,64bit,dir_nlink,extra_isize
}
"""


class E2fsTools:
    """The tools by name; they are fetched into `cache` if the host lacks them.

    `mirror` is asked for only then.
    """

    def __init__(self, cache: Cache, mirror: Callable[[], str], observer: Observer) -> None:
        self._cache = cache
        self._mirror = mirror
        self._observer = observer

    def command(self, name: str) -> tuple[str, ...]:
        """Return the command of a tool such as mke2fs. Raises LabSetupError."""
        path = os.pathsep.join((os.environ.get("PATH", os.defpath), *_FOLDERS))
        found = shutil.which(name, path=path)
        return (found,) if found is not None else self._fetched(name)

    def _fetched(self, name: str) -> tuple[str, ...]:
        def make(folder: Path) -> Record:
            self._observer.step("Fetching e2fsprogs")
            apt_folder = self._cache.folder("apt") / "tools"
            apt = Apt(apt_folder, architecture=host_architecture(), mirror=self._mirror())
            apt.update((packages.STABLE,), self._observer)
            for deb in apt.download((_PACKAGE,), packages.STABLE, self._observer):
                unpack(deb, folder)
            apt.clean()
            return {}

        piece = self._cache.piece("e2fsprogs", {"form": _FORM, "package": _PACKAGE}, make)
        return unpacked_command(piece.folder, f"sbin/{name}")


def make_ext4(tools: E2fsTools, tree: Path, image: int, label: str) -> None:
    """Make an ext4 file system with the content of `tree` in the open file `image`, of its size.

    All of it belongs to root, whoever the caller is. Raises LabSetupError, also if it does not fit.
    """
    # The open file may have no other name yet.
    target = f"/proc/self/fd/{image}"
    with tempfile.NamedTemporaryFile("w", prefix="mke2fs-") as configuration:
        configuration.write(_CONFIGURATION)
        configuration.flush()
        output_of(
            [*tools.command("mke2fs"), "-q", "-F", "-t", "ext4", "-L", label, "-m", "0",
             "-E", "root_owner=0:0", "-d", str(tree), target],
            f"make a file system of {os.fstat(image).st_size} bytes with the packages' files",
            environment={"MKE2FS_CONFIG": configuration.name}, descriptors=(image,),
        )  # fmt: skip
    if os.geteuid() != 0 or os.getegid() != 0:
        _give_to_root(tools, tree, image, target)


def _give_to_root(tools: E2fsTools, tree: Path, image: int, target: str) -> None:
    paths = ["/", *(f"/{path.relative_to(tree)}" for path in sorted(tree.rglob("*")))]
    lines = [f'sif "{path}" {field} 0\n' for path in paths for field in _ROOT_IDS]
    with tempfile.NamedTemporaryFile("w", prefix="debugfs-") as commands:
        commands.writelines(lines)
        commands.flush()
        output_of(
            [*tools.command("debugfs"), "-w", "-f", commands.name, target],
            "give the files of the file system to root",
            descriptors=(image,),
        )
