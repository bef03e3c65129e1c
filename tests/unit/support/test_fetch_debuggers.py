"""How debuggers are found, with small scripts in their place; the download itself is not run."""

from dataclasses import replace
from pathlib import Path

import pytest

from tagalong.lab.cache import Cache
from tests.support import fetch_debuggers
from tests.support.fetch_debuggers import GDB, LLDB, DebuggerMissingError


def program(path: Path, says: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)
    return path


@pytest.fixture(autouse=True)
def nothing_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for tool in (GDB, LLDB):
        monkeypatch.delenv(tool.variable, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.setattr(fetch_debuggers, "_cache", lambda: Cache(tmp_path / "cache"))


def test_find_on_path_takes_it(tmp_path: Path) -> None:
    path = program(tmp_path / "path" / "gdb-multiarch", "GNU gdb (Debian 13.1-3) 13.1")

    assert GDB.find() == [str(path)]


def test_find_with_variable_takes_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path / "path" / "gdb-multiarch", "GNU gdb (Debian 13.1-3) 13.1")
    mine = program(tmp_path / "mine", "GNU gdb (mine) 16.2")
    monkeypatch.setenv("TAGALONG_GDB", str(mine))

    assert GDB.find() == [str(mine)]


def test_find_with_nothing_anywhere_says_so() -> None:
    with pytest.raises(DebuggerMissingError, match="no lldb-19 on PATH, none fetched"):
        LLDB.find()


def test_find_of_another_program_refuses_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = program(tmp_path / "other", "hello")
    monkeypatch.setenv("TAGALONG_LLDB", str(other))

    with pytest.raises(DebuggerMissingError, match="other --version says 'hello"):
        LLDB.find()


def test_find_of_what_does_not_run_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAGALONG_LLDB", "/absent/lldb")

    with pytest.raises(DebuggerMissingError, match=r"/absent/lldb does not run: .*No such file"):
        LLDB.find()


def test_find_takes_the_one_fetched_before_with_its_own_loader(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")  # for env
    tool = replace(LLDB, program="lldb-of-nobody")

    def make(folder: Path) -> dict[str, object]:
        # The loader is given the libraries and the program, and answers for it.
        program(folder / "lib64" / "ld-linux-x86-64.so.2", "lldb version 19.1.7")
        (folder / "usr" / "lib" / "x86_64-linux-gnu").mkdir(parents=True)
        return {}

    piece = fetch_debuggers._cache().piece(tool.name, tool._made_from(), make)

    command = tool.find()

    assert command[0] == "env"
    assert f"PYTHONHOME={piece.folder}/usr" in command
    assert command[-1] == str(piece.folder / "usr/lib/llvm-19/bin/lldb")
    assert str(piece.folder / "usr/lib/x86_64-linux-gnu") in command
