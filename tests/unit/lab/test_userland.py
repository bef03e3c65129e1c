"""Root file systems, from packages, folders and tar archives."""

import io
import stat
import tarfile
from pathlib import Path

import pytest

from tagalong.errors import LabSetupError
from tagalong.lab.bytecode import HOST_PYTHON
from tagalong.lab.deb import ArchiveMember
from tagalong.lab.userland import from_own, made_from, write
from tests.support.cpio_reader import Entry, read_by_path


def member(path: str, data: bytes = b"", mode: int = stat.S_IFREG | 0o755) -> ArchiveMember:
    return ArchiveMember(path, mode, data, 1000)


PYTHON = member(f"usr/bin/python{HOST_PYTHON}", b"python")
BUSYBOX = member("bin/busybox", b"busybox")


def written(tmp_path: Path, *members: ArchiveMember) -> dict[str, Entry]:
    target = tmp_path / "userland.cpio"
    write(members, target)
    return read_by_path(target.read_bytes())


def test_write_returns_the_newest_python(tmp_path: Path) -> None:
    members = (BUSYBOX, member("usr/bin/python3.9"), member("usr/local/bin/python3.13"))

    assert write(members, tmp_path / "u.cpio") == "3.13"


def test_write_python_has_the_name_that_scripts_use(tmp_path: Path) -> None:
    entries = written(tmp_path, PYTHON, BUSYBOX)

    assert entries["usr/bin/python3"].data == f"/usr/bin/python{HOST_PYTHON}".encode()


def test_write_has_what_every_root_needs(tmp_path: Path) -> None:
    entries = written(tmp_path, PYTHON, BUSYBOX)

    assert stat.S_ISCHR(entries["dev/console"].mode)
    assert entries["dev/console"].device == (5, 1)
    assert entries["bin/sh"].data == b"/bin/busybox"
    assert entries["usr/bin/ls"].data == b"/bin/busybox"
    assert b"127.0.0.1 localhost" in entries["etc/hosts"].data
    assert all(entries[name].is_folder for name in ("proc", "sys", "tmp", "root"))


def test_write_replaces_nothing_that_is_there(tmp_path: Path) -> None:
    hosts, shell = member("etc/hosts", b"mine"), member("bin/sh", b"dash")

    entries = written(tmp_path, PYTHON, BUSYBOX, hosts, shell, member("usr/bin/ls", b"coreutils"))

    assert entries["etc/hosts"].data == b"mine"
    assert entries["bin/sh"].data == b"dash"
    assert entries["usr/bin/ls"].data == b"coreutils"


def test_write_merged_usr_is_left_merged(tmp_path: Path) -> None:
    link = ArchiveMember("bin", stat.S_IFLNK | 0o777, b"usr/bin", 0)

    entries = written(tmp_path, PYTHON, link, member("usr/bin/busybox"))

    assert stat.S_ISLNK(entries["bin"].mode)
    assert not any(path.startswith("bin/") for path in entries)
    assert entries["usr/bin/sh"].data == b"/usr/bin/busybox"


def test_write_python_files_get_byte_code(tmp_path: Path) -> None:
    entries = written(tmp_path, PYTHON, BUSYBOX, member("usr/lib/x/mod.py", b"x = 1\n"))

    assert any(p.startswith("usr/lib/x/__pycache__/mod.") for p in entries)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ((BUSYBOX,), "cannot use this root file system: it has no /usr/bin/python3.N"),
        ((PYTHON,), "cannot use this root file system: it has no /bin/busybox"),
        (
            (BUSYBOX, member("usr/bin/python3.10")),
            "cannot use this root file system: it has Python 3.10, and 3.11 is needed",
        ),
    ],
)
def test_write_without_what_the_lab_needs_is_refused(
    tmp_path: Path, members: tuple[ArchiveMember, ...], message: str
) -> None:
    with pytest.raises(LabSetupError) as caught:
        write(members, tmp_path / "u.cpio")

    assert str(caught.value) == message


def test_from_own_folder_gives_files_and_links(tmp_path: Path) -> None:
    (tmp_path / "usr" / "lib").mkdir(parents=True)
    (tmp_path / "usr" / "lib" / "libc.so").write_bytes(b"libc")
    (tmp_path / "lib").symlink_to("usr/lib")

    found = {m.path: m for m in from_own(tmp_path)}

    assert found["usr/lib/libc.so"].data == b"libc"
    assert found["lib"].data == b"usr/lib"
    assert stat.S_ISLNK(found["lib"].mode)


def test_from_own_tar_gives_files_links_and_copies_of_hard_links(tmp_path: Path) -> None:
    path = tmp_path / "root.tar"
    with tarfile.open(path, "w") as archive:
        for kind, name, target in (
            (tarfile.REGTYPE, "./bin/one", ""),
            (tarfile.LNKTYPE, "./bin/two", "./bin/one"),
            (tarfile.SYMTYPE, "./bin/three", "one"),
            (tarfile.CHRTYPE, "./dev/null", ""),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.mode = kind, target, 0o755
            info.size = 4 if kind == tarfile.REGTYPE else 0
            archive.addfile(info, io.BytesIO(b"data"))

    found = {m.path: m for m in from_own(path)}

    assert list(found) == ["bin/one", "bin/two", "bin/three"]
    assert found["bin/two"].data == b"data"
    assert found["bin/two"].mode == stat.S_IFREG | 0o755
    assert found["bin/three"].data == b"one"


@pytest.mark.parametrize("name", ["none.tar", "text"])
def test_from_own_that_is_neither_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "text").write_text("not an archive")

    with pytest.raises(
        LabSetupError, match=rf"--rootfs .*/{name}: it is neither a folder nor a tar"
    ):
        list(from_own(tmp_path / name))


def test_made_from_an_own_folder_changes_with_it(tmp_path: Path) -> None:
    before = made_from(tmp_path)
    (tmp_path / "file").touch()

    assert made_from(tmp_path) != before
    assert made_from(None) != before
