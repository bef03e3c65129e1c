"""Pieces are made once, whatever happens on the way."""

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tagalong.errors import LabSetupError
from tagalong.lab.cache import Cache, Record, default_folder, digest_of_files, identity_of

MADE_FROM: Record = {"form": 1, "packages": ["a", "b"]}


def maker(calls: list[Path]) -> Callable[[Path], Record]:
    def make(folder: Path) -> Record:
        calls.append(folder)
        (folder / "file").write_text("content")
        return {"version": "1.2"}

    return make


def test_default_folder_is_below_the_xdg_cache() -> None:
    assert default_folder({"XDG_CACHE_HOME": "/c"}) == Path("/c/tagalong/lab")


@pytest.mark.parametrize("environment", [{}, {"XDG_CACHE_HOME": ""}, {"XDG_CACHE_HOME": "c"}])
def test_default_folder_without_an_absolute_xdg_cache_is_in_the_home(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/me")

    assert default_folder(environment) == Path("/home/me/.cache/tagalong/lab")


def test_piece_is_made_once_and_found_by_another_cache(tmp_path: Path) -> None:
    calls: list[Path] = []

    first = Cache(tmp_path).piece("qemu", MADE_FROM, maker(calls))
    again = Cache(tmp_path).piece("qemu", {**MADE_FROM}, maker(calls))

    assert len(calls) == 1
    assert again.folder == first.folder
    assert again.text("version") == "1.2"
    assert (again.folder / "file").read_text() == "content"


def test_piece_made_from_something_else_is_another(tmp_path: Path) -> None:
    cache, calls = Cache(tmp_path), list[Path]()

    one = cache.piece("qemu", MADE_FROM, maker(calls))
    other = cache.piece("qemu", {"form": 2}, maker(calls))

    assert len(calls) == 2
    assert one.key != other.key


def test_piece_that_fails_is_made_again_in_an_empty_folder(tmp_path: Path) -> None:
    cache, calls = Cache(tmp_path), list[Path]()

    def fail(folder: Path) -> Record:
        (folder / "half").touch()
        raise LabSetupError("no network")

    with pytest.raises(LabSetupError, match="no network"):
        cache.piece("qemu", MADE_FROM, fail)
    assert cache.find("qemu", MADE_FROM) is None

    piece = cache.piece("qemu", MADE_FROM, maker(calls))
    assert sorted(p.name for p in piece.folder.iterdir()) == ["file", "record.json"]
    assert [p.name for p in piece.folder.parent.iterdir()] == [piece.key]


@pytest.mark.parametrize("record", ["", "{", "[]"])
def test_piece_with_a_damaged_record_is_made_again(tmp_path: Path, record: str) -> None:
    cache, calls = Cache(tmp_path), list[Path]()
    piece = cache.piece("qemu", MADE_FROM, maker(calls))
    (piece.folder / "record.json").write_text(record)

    again = cache.piece("qemu", MADE_FROM, maker(calls))

    assert len(calls) == 2
    assert json.loads((again.folder / "record.json").read_text())["made_from"] == MADE_FROM


def test_pieces_that_were_not_used_for_long_are_removed(tmp_path: Path) -> None:
    cache, calls = Cache(tmp_path), list[Path]()

    pieces = [cache.piece("checkout", {"n": n}, maker(calls)) for n in range(7)]

    assert [piece.folder.exists() for piece in pieces] == [False] * 3 + [True] * 4


def test_two_at_once_one_makes_and_the_other_says_that_it_waits(tmp_path: Path) -> None:
    started, go_on, waits = (threading.Event() for _ in range(3))
    calls: list[Path] = []

    def slow(folder: Path) -> Record:
        started.set()
        assert go_on.wait(10)
        return maker(calls)(folder)

    first = threading.Thread(target=lambda: Cache(tmp_path).piece("qemu", MADE_FROM, slow))
    first.start()
    assert started.wait(10)
    second = threading.Thread(
        target=lambda: Cache(tmp_path, waits.set).piece("qemu", MADE_FROM, maker(calls))
    )
    second.start()
    assert waits.wait(10)
    go_on.set()
    for thread in (first, second):
        thread.join(60)

    assert len(calls) == 1


def test_forget_removes_all_pieces_of_a_name(tmp_path: Path) -> None:
    cache, calls = Cache(tmp_path), list[Path]()
    cache.piece("qemu", MADE_FROM, maker(calls))

    cache.forget("qemu")

    assert cache.find("qemu", MADE_FROM) is None


def test_folder_that_cannot_be_used_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(
        LabSetupError, match=r"cannot use .*/file/lab as the lab's folder: Not a directory; name"
    ):
        Cache(tmp_path / "file" / "lab")


def test_digest_of_files_sees_names_and_contents(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    a.write_text("1")
    b.write_text("1")

    digests = {digest_of_files(tmp_path, files) for files in ([a], [b], [a, b], [])}
    a.write_text("2")
    digests.add(digest_of_files(tmp_path, [a]))

    assert len(digests) == 5


def test_identity_of_a_folder_changes_with_a_file_in_it(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    before = identity_of(tmp_path)
    (tmp_path / "deep" / "file").write_text("x")

    assert identity_of(tmp_path) != before


def test_identity_of_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LabSetupError, match=r"cannot read .*/gone"):
        identity_of(tmp_path / "gone")
