"""Finding guest programs."""

import os
from pathlib import Path

import pytest

from tagalong.boot import program
from tagalong.boot.choice import MAX_IMAGE_BYTES, read_guest
from tagalong.errors import GuestImageError


def test_read_guest_path_reads_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.elf").write_bytes(b"image")
    (tmp_path / "other").write_bytes(b"another")
    monkeypatch.chdir(tmp_path)

    assert read_guest("mine.elf") == b"image"
    assert read_guest("./other") == b"another"
    assert read_guest(str(tmp_path / "other")) == b"another"


def test_read_guest_name_is_a_built_in_guest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "churn.elf").write_bytes(b"built in")
    monkeypatch.setattr(program, "LIBRARY_FOLDER", tmp_path)

    assert read_guest("churn") == b"built in"
    with pytest.raises(GuestImageError, match=r"^no built-in guest 'x'; there are: churn$"):
        read_guest("x")


def test_read_guest_missing_file_names_it(tmp_path: Path) -> None:
    path = tmp_path / "no.elf"

    with pytest.raises(GuestImageError) as caught:
        read_guest(str(path))

    assert str(caught.value) == f"cannot read the guest program {path}: No such file or directory"


def test_read_guest_of_what_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    fifo, zeros, folder = tmp_path / "fifo", tmp_path / "zeros", tmp_path / "folder"
    os.mkfifo(fifo)  # without a writer: opening it would wait for one
    zeros.symlink_to("/dev/zero")
    folder.mkdir()
    found = {}

    for path in (fifo, zeros, folder):
        with pytest.raises(GuestImageError) as caught:
            read_guest(str(path))
        found[path] = str(caught.value)

    not_regular = "cannot read the guest program {}: it is not a regular file; give a file"
    assert found == {
        fifo: not_regular.format(fifo),
        zeros: not_regular.format(zeros),
        folder: f"cannot read the guest program {folder}: Is a directory",
    }


def test_read_guest_of_a_file_that_is_too_large_reads_nothing_of_it(tmp_path: Path) -> None:
    path = tmp_path / "large.elf"
    with path.open("wb") as file:
        file.truncate(MAX_IMAGE_BYTES + 1)

    with pytest.raises(GuestImageError) as caught:
        read_guest(str(path))

    assert str(caught.value) == (
        f"cannot read the guest program {path}: it has 268435457 bytes, and at most "
        "268435456 are read"
    )


def test_read_guest_of_a_name_with_nul_is_refused() -> None:
    with pytest.raises(
        GuestImageError, match=r"^cannot read the guest program '/x\\x00': embedded"
    ):
        read_guest("/x\0")
