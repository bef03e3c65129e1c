"""Finding guest programs."""

from pathlib import Path

import pytest

from tagalong.boot import program
from tagalong.boot.choice import read_guest
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
