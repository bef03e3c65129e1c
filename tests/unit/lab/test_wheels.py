"""Wheels unpacked as an installer would, and what pip is asked for."""

import zipfile
from pathlib import Path

import pytest

from tagalong.errors import LabSetupError
from tagalong.lab.bytecode import HOST_PYTHON
from tagalong.lab.observer import SilentObserver
from tagalong.lab.wheels import WheelRequirements, download, write
from tests.support.cpio_reader import Entry, read_by_path

ROOT = Path(__file__).parents[3]


def written(tmp_path: Path, files: dict[str, bytes]) -> dict[str, Entry]:
    wheel, target = tmp_path / "thing-1.2-py3-none-any.whl", tmp_path / "packages.cpio"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    assert write([wheel], target, python=HOST_PYTHON) == ["thing 1.2"]
    return {p: e for p, e in read_by_path(target.read_bytes()).items() if not e.is_folder}


def test_write_puts_packages_where_python_finds_them(tmp_path: Path) -> None:
    entries = written(tmp_path, {"thing/__init__.py": b"x = 1\n", "thing/_c.so": b"code"})

    assert entries["opt/tagalong/packages/thing/__init__.py"].data == b"x = 1\n"
    assert entries["opt/tagalong/packages/thing/_c.so"].data == b"code"
    assert any("__pycache__" in path for path in entries)


def test_write_data_folders_are_placed_by_their_kind(tmp_path: Path) -> None:
    entries = written(
        tmp_path,
        {"thing-1.2.data/purelib/pure.txt": b"p", "thing-1.2.data/headers/thing.txt": b"h"},
    )

    assert list(entries) == ["opt/tagalong/packages/pure.txt"]


def test_write_leaves_out_tests_and_headers(tmp_path: Path) -> None:
    names = ("thing/tests/test_x.py", "tests/test_y.py", "thing/a.pyi", "thing/a.h", "thing/kept")

    entries = written(tmp_path, dict.fromkeys(names, b""))

    assert list(entries) == ["opt/tagalong/packages/thing/kept"]


def test_write_makes_a_command_for_each_entry_point(tmp_path: Path) -> None:
    text = b"[console_scripts]\nthing = thing.main:run [extra]\n[pytest11]\nthing = thing.plugin\n"

    entries = written(tmp_path, {"thing-1.2.dist-info/entry_points.txt": text})

    command = entries["opt/tagalong/bin/thing"]
    assert command.mode & 0o111
    assert command.data.decode() == (
        "#!/usr/bin/env python3\nimport sys\nfrom thing.main import run\nsys.exit(run())\n"
    )


def test_requirements_of_this_checkout_are_its_dependencies_and_the_test_tools() -> None:
    wanted = WheelRequirements.of_checkout(ROOT)

    names = [text.split(">")[0] for text in wanted.requirements]
    assert {"numpy", "click", "rich", "pytest", "hypothesis"} <= set(names)
    assert not {"mypy", "ruff", "ziglang"} & set(names)
    assert wanted.constraints == ROOT / "constraints.txt"


def test_requirements_change_with_the_constraints(tmp_path: Path) -> None:
    constraints = tmp_path / "constraints.txt"
    constraints.write_text("numpy==2.0\n")
    before = WheelRequirements(("numpy",), constraints).made_from()
    constraints.write_text("numpy==2.1\n")

    assert WheelRequirements(("numpy",), constraints).made_from() != before


def test_download_that_pip_cannot_do_has_pips_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    wanted = WheelRequirements(("tagalong-no-such-package",), None)

    with pytest.raises(LabSetupError) as caught:
        download(
            wanted, python="3.11", folder=tmp_path / "w", cache=tmp_path / "c",
            observer=SilentObserver(),
        )  # fmt: skip

    assert str(caught.value).startswith("cannot download the Python packages for arm64: ")
    assert "tagalong-no-such-package" in "\n".join(caught.value.__notes__)
