"""The one writer of files, against every kind of thing that a name can lead to."""

import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tagalong import files
from tagalong.errors import HostError, with_causes
from tagalong.files import NewFile, examine_output, open_stream
from tests.support.targets import (
    LOOP,
    UNWRITABLE,
    can_make_devices,
    make_device,
    names_in,
    unwritable,
)


@pytest.fixture(params=["nameless", "hidden"], autouse=True)
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write to a file without a name, and as on a file system that has none."""
    if request.param == "hidden":
        monkeypatch.setattr(files, "_DESCRIPTORS", Path("/nonexistent"))


def write(path: Path, content: bytes = b"new", *, overwrite: bool = True) -> files.WrittenFile:
    new = NewFile(path, overwrite=overwrite)
    try:
        new.write(0, content)
        return new.publish()
    finally:
        new.close()


def test_new_file_over_what_is_no_file_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    kinds = [*unwritable(tmp_path).values(), LOOP]
    for number, (make, reason) in enumerate(kinds):
        path = tmp_path / f"{number}"
        make(path)
        before = path.lstat()

        with pytest.raises(HostError) as caught:
            NewFile(path)

        assert str(caught.value) == f"cannot open {path}: {reason}"
        assert path.lstat().st_ino == before.st_ino
        assert len(names_in(tmp_path)) == number + 1


def test_new_file_behind_a_link_to_what_is_no_file_is_refused(tmp_path: Path) -> None:
    for number, (make, reason) in enumerate(UNWRITABLE.values()):
        target, link = tmp_path / f"target{number}", tmp_path / f"link{number}"
        make(target)
        link.symlink_to(target)

        with pytest.raises(HostError) as caught:
            NewFile(link)

        assert str(caught.value) == f"cannot open {link}: {reason}"
        assert link.is_symlink()


def test_new_file_over_a_link_replaces_what_the_link_leads_to(tmp_path: Path) -> None:
    target, link = tmp_path / "sub" / "vm.core", tmp_path / "latest.core"
    target.parent.mkdir()
    target.write_bytes(b"old")
    link.symlink_to("sub/vm.core")

    report = write(link)

    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    assert report.path == link
    assert names_in(tmp_path) == ["latest.core", "sub"]
    assert names_in(target.parent) == ["vm.core"]


def test_new_file_over_a_link_to_nothing_creates_what_it_leads_to(tmp_path: Path) -> None:
    link = tmp_path / "latest.core"
    link.symlink_to("vm.core")

    write(link)

    assert link.is_symlink()
    assert (tmp_path / "vm.core").read_bytes() == b"new"


def descriptor_names(fd: int, folder: Path) -> list[Path]:
    """Return the names that a descriptor of this process has, also by links in `folder`."""
    (folder / "link").symlink_to(f"/proc/self/fd/{fd}")
    (folder / "chain").symlink_to("link")
    (folder / "fds").symlink_to("/proc/self/fd")
    pid, thread = os.getpid(), threading.get_native_id()
    return [
        Path(f"/proc/self/fd/{fd}"),
        Path(f"/proc/thread-self/fd/{fd}"),
        Path(f"/proc/{pid}/fd/{fd}"),
        Path(f"/proc/{pid}/task/{thread}/fd/{fd}"),
        Path(f"/dev/fd/{fd}"),
        Path(f"/proc/../proc/self/fd/./{fd}"),
        folder / "link",
        folder / "chain",
        folder / "fds" / f"{fd}",
    ]


def refused_descriptor(path: Path) -> str:
    return f"cannot open {path}: it names a descriptor of this process; give a file name"


def test_new_file_over_a_name_of_a_descriptor_is_refused_and_changes_nothing(
    tmp_path: Path,
) -> None:
    path = tmp_path / "out"
    with path.open("ab") as stream:
        stream.write(b"log")
        stream.flush()
        names = [*descriptor_names(stream.fileno(), tmp_path), Path("/dev/stdout")]
        before = names_in(tmp_path)

        for name in names:
            with pytest.raises(HostError) as caught:
                NewFile(name)

            assert str(caught.value) == refused_descriptor(name)

        stream.write(b" goes on")

    assert path.read_bytes() == b"log goes on"
    assert names_in(tmp_path) == before


def test_examine_output_of_a_descriptor_of_a_pipe_or_a_removed_file_is_refused(
    tmp_path: Path,
) -> None:
    reader, writer = os.pipe()
    removed = os.open(tmp_path / "removed", os.O_CREAT | os.O_WRONLY)
    os.unlink(tmp_path / "removed")
    closed = os.dup(writer)
    os.close(closed)
    try:
        for fd in (writer, removed, closed):
            with pytest.raises(HostError) as caught:
                examine_output(Path(f"/proc/self/fd/{fd}"))

            assert str(caught.value) == refused_descriptor(Path(f"/proc/self/fd/{fd}"))
    finally:
        for fd in (reader, writer, removed):
            os.close(fd)


def test_new_file_by_a_name_that_each_process_understands_by_itself_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("/proc/self/cwd/vm.core", f"/proc/self/root{tmp_path}/vm.core"):
        with pytest.raises(HostError) as caught:
            NewFile(Path(name))

        assert str(caught.value) == (
            f"cannot open {name}: a name through /proc means something else in each process; give "
            "the file's own name"
        )
    assert names_in(tmp_path) == []


def test_new_file_in_a_folder_called_fd_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "fd").mkdir()

    write(tmp_path / "fd" / "1")

    assert (tmp_path / "fd" / "1").read_bytes() == b"new"


def test_new_file_where_a_device_appears_meanwhile_leaves_it(tmp_path: Path) -> None:
    path = tmp_path / "vm.core"
    new = NewFile(path)
    os.mkfifo(path)

    with pytest.raises(HostError, match=r"cannot finish .*it is no regular file any more"):
        new.publish()

    assert stat.S_ISFIFO(path.lstat().st_mode)
    assert names_in(tmp_path) == ["vm.core"]


def test_new_file_with_a_name_that_is_none_is_refused(tmp_path: Path) -> None:
    wrong = {
        "a\0b": r"/a\\x00b': this is not a name that a file can have \(embedded null byte\)$",
        "n" * 256: "File name too long$",
        "\ud800": r"/\\ud800': this is not a name that a file can have",
        "absent/vm.core": "No such file or directory$",
        ".": "it is a directory; give a file name$",
    }
    for name, reason in wrong.items():
        with pytest.raises(HostError, match=reason) as caught:
            NewFile(tmp_path / name)
        assert str(caught.value).isprintable()


def test_new_file_with_the_longest_name_of_wide_characters_is_written(tmp_path: Path) -> None:
    path = tmp_path / ("\N{CRAB}" * 63)

    write(path)

    assert path.read_bytes() == b"new"


def test_new_file_is_for_its_owner_only_whatever_it_replaces(tmp_path: Path) -> None:
    path = tmp_path / "vm.core"
    path.write_bytes(b"old")
    path.chmod(0o666)
    new = NewFile(path)

    mode_while_written = os.fstat(new.fd).st_mode
    new.publish()

    assert stat.S_IMODE(mode_while_written) == 0o600
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_two_writers_to_one_name_share_nothing(tmp_path: Path) -> None:
    path = tmp_path / "vm.core"
    first, second = NewFile(path), NewFile(path)
    first.write(0, b"first")
    second.write(0, b"second")

    first.publish()
    after_first = path.read_bytes()
    second.write(6, b"!")
    second.publish()

    assert after_first == b"first"
    assert path.read_bytes() == b"second!"
    assert names_in(tmp_path) == ["vm.core"]


def test_new_file_whose_folder_cannot_be_synced_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "vm.core"
    new = NewFile(path)
    real = os.fsync

    def fsync(fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(5, "Input/output error")
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)

    with pytest.raises(HostError, match=rf"cannot finish {path}: Input/output error"):
        new.publish()

    assert names_in(tmp_path) == []


KILLED = """
import sys, time
from pathlib import Path
from tagalong.files import NewFile
new = NewFile(Path(sys.argv[1]))
new.write(0, b"half")
print("writing", flush=True)
time.sleep(600)
"""


def test_killed_writer_leaves_nothing_under_the_name(tmp_path: Path) -> None:
    path = tmp_path / "vm.core"
    arguments = [sys.executable, "-c", KILLED, str(path)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"writing\n"
        process.send_signal(signal.SIGKILL)
        process.wait()

    assert names_in(tmp_path) == []


def test_stream_to_a_fifo_reaches_its_reader_and_leaves_the_fifo(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    output = examine_output(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)

    descriptor = open_stream(output)
    os.write(descriptor, b"stream")
    os.close(descriptor)
    received = os.read(reader, 100)
    os.close(reader)

    assert received == b"stream"
    assert output.stream == "a FIFO"
    assert stat.S_ISFIFO(path.lstat().st_mode)


def test_stream_to_a_device_reaches_it_and_leaves_it(tmp_path: Path) -> None:
    if not can_make_devices(tmp_path):
        pytest.skip("needs the right to make device nodes (CAP_MKNOD)")
    path = tmp_path / "null"
    make_device(path)

    descriptor = open_stream(examine_output(path))
    written = os.write(descriptor, b"stream")
    os.close(descriptor)

    assert written == 6
    assert stat.S_ISCHR(path.lstat().st_mode)


def test_stream_to_a_fifo_without_a_reader_says_so_at_once(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)

    with pytest.raises(HostError) as caught:
        open_stream(examine_output(path))

    assert str(caught.value) == (
        f"cannot open {path}: nothing reads from this FIFO; start the reader first"
    )
    assert with_causes(caught.value) == str(caught.value)


def test_stream_to_a_name_that_became_a_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    output = examine_output(path)
    path.unlink()
    path.write_bytes(b"a file")

    with pytest.raises(HostError, match="it is no longer a FIFO; try again"):
        open_stream(output)

    assert path.read_bytes() == b"a file"
