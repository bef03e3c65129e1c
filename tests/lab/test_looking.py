"""A Linux guest of a QEMU beside us, looked at in the lab; its cores in tools of this host."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tagalong.core import open_core
from tagalong.core.check import check_core
from tests.support.debuggers import gdb_tags
from tests.support.fetch_debuggers import GDB, DebuggerMissingError
from tests.support.lab_command import lab

SCRIPT = """
mkdir /tmp/a && cd /tagalong &&
python3 -m tests.support.looked_at_guests linux /tmp/a > /tmp/a/found.json &&
tar -c -C /tmp/a found.json vm.core.zst user.core
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Boot the lab once; return a folder with what was found there, and the cores."""
    folder = tmp_path_factory.mktemp("looking")
    run = lab("run", "--with-vmm", "--ram", "2G", "--", "sh", "-c", SCRIPT, seconds=900)
    assert run.returncode == 0, run.stderr.decode()
    with tarfile.open(fileobj=io.BytesIO(run.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture
def found(folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((folder / "found.json").read_text())
    return values


def test_dump_of_a_linux_guest_beside_us_has_every_tag_of_its_process(
    found: dict[str, Any],
) -> None:
    assert found["granules"] == 4 << 16
    # One granule can be in the middle of a change.
    assert max(found["wrong"]) <= 1
    assert found["failures"] == []
    assert found["report"]["was_running"]
    assert not found["report"]["torn"]


def test_dump_by_process_id_agrees_with_the_one_through_the_library(found: dict[str, Any]) -> None:
    known, blind = found["known"], found["blind"]

    assert found["state"] == "paused"
    assert known["data"]
    assert known["tags"]
    assert known["registers"]
    assert known["linux"] == blind["linux"] != ""
    assert known["words"]["pause"] == "the guest did not run"
    assert blind["data"]
    assert blind["tags"]
    assert blind["threads"] == 0
    assert blind["words"]["registers"] == "none: no monitor of QEMU was given (--qmp)"


def test_explain_through_the_control_socket_says_what_it_says_of_a_dump(
    found: dict[str, Any],
) -> None:
    running, dumped = found["explained"]

    assert running["source"].pop("name").endswith("linux.sock")
    assert dumped["source"].pop("name").endswith("control.core")
    assert running["source"]["kind"] == "guest"
    assert running["registers"]
    assert running == dumped


def test_gdb_shows_the_tags_of_the_process_in_the_guest(
    folder: Path, found: dict[str, Any]
) -> None:
    try:
        GDB.find()
    except DebuggerMissingError as error:
        pytest.skip(f"missing {GDB.program}: {error}")
    address, tags = found["address"], found["first_tags"]

    shown = gdb_tags(folder / "user.core", [address + 16 * number for number in range(len(tags))])

    assert shown == tags


def test_drgn_and_check_find_the_kernel_and_the_tags_of_its_process(
    folder: Path, found: dict[str, Any]
) -> None:
    drgn = pytest.importorskip("tagalong.drgn", reason="missing drgn")
    path = folder / "vm.core.zst"
    program = drgn.open_program(path)
    drgn.load_symbols(program)
    address, tags = found["address"], found["first_tags"]

    names = program.read(program.symbol("init_uts_ns").address, 400)
    runs = drgn.tag_runs(program, address, 16 * len(tags), vcpu=0)

    assert [run.tag for run in runs for _ in range(run.start, run.end, 16)] == tags
    with open_core(path) as core:
        assert core.vmcoreinfo is not None
        assert core.vmcoreinfo.osrelease.encode() in names
        verdict = check_core(core).kernel
    assert verdict is not None
    assert verdict.opens
    assert verdict.crash_reason is None
