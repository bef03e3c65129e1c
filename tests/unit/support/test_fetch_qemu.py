"""How qemu-aarch64 is found, with small scripts in its place; the download itself is not run."""

from pathlib import Path

import pytest

from tagalong.lab.cache import Cache, Record
from tests.support import fetch_qemu
from tests.support.fetch_qemu import QemuMissingError, find_qemu


def fake_qemu(folder: Path, version: str, name: str = "qemu-aarch64") -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\necho 'qemu-aarch64 version {version} (Debian)'\n")
    path.chmod(0o755)
    return path


@pytest.fixture(autouse=True)
def nothing_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(fetch_qemu.VARIABLE, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_find_on_path_takes_it(tmp_path: Path) -> None:
    path = fake_qemu(tmp_path / "path", "7.2.22")

    assert find_qemu() == path


def test_find_with_old_one_on_path_takes_the_cached_one(tmp_path: Path) -> None:
    fake_qemu(tmp_path / "path", "6.2.0")

    def make(folder: Path) -> Record:
        fake_qemu(folder, "10.0.2", "qemu-aarch64-static")
        return {}

    cache = Cache(tmp_path / "cache" / "tagalong" / "oracle")
    piece = cache.piece("qemu", fetch_qemu._MADE_FROM, make)

    assert find_qemu() == piece.folder / "qemu-aarch64-static"


def test_find_with_variable_takes_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_qemu(tmp_path / "path", "7.2.22")
    named = fake_qemu(tmp_path / "mine", "9.1.0", "my-qemu")
    monkeypatch.setenv(fetch_qemu.VARIABLE, str(named))

    assert find_qemu() == named


def test_find_with_variable_that_is_no_qemu_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(fetch_qemu.VARIABLE, str(tmp_path / "absent"))

    with pytest.raises(QemuMissingError, match=r"TAGALONG_QEMU_AARCH64=.*absent: does not run: "):
        find_qemu()


def test_find_with_old_one_only_names_its_version(tmp_path: Path) -> None:
    fake_qemu(tmp_path / "path", "6.2.0")

    with pytest.raises(QemuMissingError, match=r"qemu-aarch64: version 6.2 is older than 7.2"):
        find_qemu()


def test_find_without_any_says_where_it_looked(tmp_path: Path) -> None:
    with pytest.raises(QemuMissingError, match=r"on PATH, none in .*cache"):
        find_qemu()
    assert list(tmp_path.iterdir()) == []


def test_main_without_apt_says_how_to_name_ones_own(capsys: pytest.CaptureFixture[str]) -> None:
    fetch_qemu.main()

    message = capsys.readouterr().err
    assert "dpkg-deb is not on the PATH" in message
    assert "The oracle tests will be skipped. Name your own with TAGALONG_QEMU_AARCH64=PATH." in (
        message
    )


def test_main_with_usable_one_downloads_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = fake_qemu(tmp_path / "path", "7.2.22")

    fetch_qemu.main()

    assert capsys.readouterr().err == f"oracle: {path}\n"


def test_fetch_through_failing_apt_names_what_it_said(tmp_path: Path) -> None:
    for tool in ("apt-get", "dpkg-deb"):
        path = tmp_path / "path" / tool
        path.parent.mkdir(exist_ok=True)
        path.write_text("#!/bin/sh\necho 'E: no such mirror' >&2\nexit 100\n")
        path.chmod(0o755)

    path.with_name("dpkg").write_text("#!/bin/sh\necho amd64\n")
    path.with_name("dpkg").chmod(0o755)

    with pytest.raises(QemuMissingError, match=r"system's apt configuration.*E: no such mirror"):
        fetch_qemu.fetch()
    assert not list(tmp_path.rglob("qemu-aarch64*"))
