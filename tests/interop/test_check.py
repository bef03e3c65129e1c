"""What `tagalong check` says about gdb and lldb is what they do: they are run on every case."""

from pathlib import Path

import pytest

from tagalong.core import open_core
from tagalong.core.check import check_core
from tagalong.core.findings import GDB, LLDB, Tags
from tests.support.core_cases import CASES, Case
from tests.support.debuggers import gdb_tags, lldb_tags

pytestmark = pytest.mark.usefixtures("debuggers")


def summary(case: Case, shown: dict[int, bool | None]) -> tuple[Tags, bool]:
    """Return what a verdict has to say when this is shown."""
    wanted = [seen for address, seen in shown.items() if address not in case.absent]
    there = [seen for seen in wanted if seen is not None]
    some = Tags.SOME if there else Tags.NONE
    return Tags.ALL if len(there) == len(wanted) else some, False in there


def seen(case: Case, address: int, tags: list[int]) -> bool | None:
    """Return whether what a debugger showed is the granule's true tag."""
    return tags[0] == (address - case.start) // 16 % 16 if tags else None


@pytest.mark.parametrize("name", CASES)
def test_gdb_does_what_check_says(name: str, tmp_path: Path) -> None:
    case, path = CASES[name], tmp_path / "a.core"
    path.write_bytes(case.core)

    shown = {each: seen(case, each, gdb_tags(path, [each])) for each in case.gdb}

    assert shown == case.gdb


@pytest.mark.parametrize("name", CASES)
def test_lldb_does_what_check_says(name: str, tmp_path: Path) -> None:
    case, path = CASES[name], tmp_path / "a.core"
    path.write_bytes(case.core)

    shown = {
        each: seen(case, each, list(lldb_tags(path, each, each + 16).values()))
        for each in case.lldb
    }

    assert shown == case.lldb


@pytest.mark.parametrize("name", CASES)
def test_verdicts_are_what_the_debuggers_show(name: str, tmp_path: Path) -> None:
    case, path = CASES[name], tmp_path / "a.core"
    path.write_bytes(case.core)

    with open_core(path) as core:
        report = check_core(core)

    verdicts = {verdict.debugger: (verdict.tags, verdict.wrong) for verdict in report.verdicts}
    assert verdicts == {GDB: summary(case, case.gdb), LLDB: summary(case, case.lldb)}
