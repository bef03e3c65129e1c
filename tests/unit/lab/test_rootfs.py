"""The root file system of `tagalong guest rootfs`: its files, and the image that they go into."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tagalong.errors import LabSetupError
from tagalong.lab.cache import Cache
from tagalong.lab.e2fs import E2fsTools, make_ext4
from tagalong.lab.observer import SilentObserver
from tagalong.lab.rootfs import add_own_files, unpack_tree
from tests.support.deb_builder import DebBuilder

needs_dpkg = pytest.mark.skipif(
    shutil.which("dpkg-deb") is None, reason="dpkg-deb is not on the PATH"
)
MIB = 1 << 20


def host_tools(folder: Path) -> E2fsTools:
    """Return the tools of this host; a test that needs them is skipped where they are missing."""

    def refuse() -> str:
        pytest.skip("missing e2fsprogs on this host")

    return E2fsTools(Cache(folder / "cache"), refuse, SilentObserver())


def ask_debugfs(tools: E2fsTools, image: Path, request: str) -> str:
    command = [*tools.command("debugfs"), "-R", request, str(image)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@needs_dpkg
def test_unpack_tree_merges_bin_and_lib_into_usr_and_leaves_documents_out(tmp_path: Path) -> None:
    deb = DebBuilder(tmp_path)
    one = deb({"bin/true": b"true", "lib/x.so": b"x", "usr/share/doc/one/copyright": b"c"})
    two = deb({"usr/bin/awk2": b"awk"})

    unpack_tree([one, two], tmp_path / "tree")

    tree = tmp_path / "tree"
    assert os.readlink(tree / "bin") == "usr/bin"
    assert (tree / "usr/bin/true").read_bytes() == (tree / "bin/true").read_bytes() == b"true"
    assert (tree / "lib/x.so").read_bytes() == b"x"
    assert (tree / "usr/bin/awk2").exists()
    assert not (tree / "usr/share/doc").exists()
    assert all((tree / name).is_dir() for name in ("dev", "proc", "sys", "tmp", "mnt"))


@needs_dpkg
def test_own_files_replace_those_of_packages_and_leave_linked_ones_alone(tmp_path: Path) -> None:
    unpack_tree([DebBuilder(tmp_path)({"etc/hosts": b"old", "usr/bin/mawk": b"mawk"})],
                tmp_path / "tree")  # fmt: skip
    tree, cached = tmp_path / "tree", tmp_path / "cached"
    os.link(tree / "etc/hosts", cached)

    add_own_files(tree)

    assert b"localhost" in (tree / "etc/hosts").read_bytes()
    assert cached.read_bytes() == b"old"
    assert (tree / "sbin/init").read_bytes().startswith(b"#!/bin/busybox sh\n")
    assert os.access(tree / "usr/bin/heapkeeper", os.X_OK)
    assert os.readlink(tree / "usr/bin/awk") == "mawk"
    assert not (tree / "usr/bin/nc").is_symlink()


def test_image_belongs_to_root_whoever_made_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools, image = host_tools(tmp_path), tmp_path / "root.img"
    (tmp_path / "tree" / "a b").mkdir(parents=True)
    (tmp_path / "tree" / "a b" / "file").write_bytes(b"content")
    (tmp_path / "tree" / "link").symlink_to("/nowhere")
    if os.geteuid() == 0:  # as if another user had made the files
        for path in (tmp_path / "tree").rglob("*"):
            os.chown(path, 1000, 1000, follow_symlinks=False)
        monkeypatch.setattr(os, "geteuid", lambda: 1000)

    with image.open("w+b") as file:
        file.truncate(8 * MIB)
        make_ext4(tools, tmp_path / "tree", file.fileno(), "name")

    for name in ("/", "/a b", "/a b/file", "/link"):
        said = " ".join(ask_debugfs(tools, image, f'stat "{name}"').split())
        assert "User: 0 Group: 0" in said, (name, said)
    assert ask_debugfs(tools, image, 'cat "/a b/file"') == "content"
    check = [*tools.command("e2fsck"), "-f", "-n", str(image)]
    assert subprocess.run(check, capture_output=True, check=False).returncode == 0


def test_image_that_is_too_small_is_an_error_with_the_tools_words(tmp_path: Path) -> None:
    tools = host_tools(tmp_path)
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "large").write_bytes(os.urandom(2 * MIB))

    with (tmp_path / "root.img").open("w+b") as file:
        file.truncate(MIB)
        with pytest.raises(LabSetupError, match="cannot make a file system of 1048576 bytes") as it:
            make_ext4(tools, tmp_path / "tree", file.fileno(), "name")

    assert "mke2fs" in str(it.value)
