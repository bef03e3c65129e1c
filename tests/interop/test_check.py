"""What `tagalong check` says about gdb and lldb is what they do: they are run on every case."""

from pathlib import Path

import pytest

from tagalong.core import open_core
from tagalong.core.check import check_core
from tagalong.core.findings import GDB, LLDB, Tags
from tests.support.core_cases import CASES, Case
from tests.support.debuggers import gdb_tags_by_address, lldb_tags

pytestmark = pytest.mark.usefixtures("debuggers")


def summary(case: Case, shown: dict[int, bool | None]) -> tuple[Tags, bool]:
    """Return what a verdict has to say when this is shown."""
    wanted = [seen for address, seen in shown.items() if address not in case.absent]
    there = [seen for seen in wanted if seen is not None]
    some = Tags.SOME if there else Tags.NONE
    return Tags.ALL if len(there) == len(wanted) else some, False in there


def seen(case: Case, address: int, shown: dict[int, int]) -> bool | None:
    """Return whether what a debugger showed is the granule's true tag."""
    return shown[address] == (address - case.start) // 16 % 16 if address in shown else None


@pytest.mark.parametrize("name", CASES)
def test_gdb_does_what_check_says(name: str, tmp_path: Path) -> None:
    case, path = CASES[name], tmp_path / "a.core"
    path.write_bytes(case.core)

    shown = gdb_tags_by_address(path, case.gdb)

    assert {each: seen(case, each, shown) for each in case.gdb} == case.gdb


@pytest.mark.parametrize("name", CASES)
def test_lldb_does_what_check_says(name: str, tmp_path: Path) -> None:
    case, path = CASES[name], tmp_path / "a.core"
    path.write_bytes(case.core)

    # One at a time, for lldb stops at the first that fails.
    shown = {at: tag for each in case.lldb for at, tag in lldb_tags(path, each, each + 16).items()}

    assert {each: seen(case, each, shown) for each in case.lldb} == case.lldb


@pytest.mark.parametrize("name", CASES)
def test_verdicts_are_what_the_debuggers_show(name: str, tmp_path: Path) -> None:
    case, path = CASES[name], tmp_path / "a.core"
    path.write_bytes(case.core)

    with open_core(path) as core:
        report = check_core(core)

    verdicts = {verdict.debugger: (verdict.tags, verdict.wrong) for verdict in report.verdicts}
    assert verdicts == {GDB: summary(case, case.gdb), LLDB: summary(case, case.lldb)}
