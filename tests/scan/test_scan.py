"""Scans with real helper processes here: what is found, and what no file can do to a scan."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from tagalong.cli.app import invoke
from tagalong.errors import HostError, UsageError
from tagalong.scan.helper import Helper
from tagalong.scan.items import Item, items_of
from tagalong.scan.record import CrashRecord
from tagalong.scan.scanning import ScanPlan, ScanProgress, scan
from tests.support.many_crashes import crash_file, kind_of, write_crashes

COUNT = 60


@pytest.fixture(scope="module")
def crashes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("crashes")
    write_crashes(folder, COUNT)
    return folder


def records_of(path: Path) -> list[CrashRecord]:
    return [CrashRecord.from_json(json.loads(line)) for line in path.read_text().splitlines()]


def expected() -> Counter[str]:
    return Counter(kind_of(number) for number in range(COUNT))


def found(records: list[CrashRecord]) -> Counter[str]:
    """Return which function each record is about, as `kind_of` names it."""
    return Counter(
        "none" if each.error else "kernel" if each.world == "kernel" else str(each.place)
        .partition("!")[2]
        for each in records
    )  # fmt: skip


def test_scan_groups_by_what_happened_where(crashes: Path) -> None:
    result = scan(ScanPlan((str(crashes),), workers=2))

    kinds = expected()
    worthless = kinds.pop("none")
    assert (result.files, result.crashes) == (COUNT, COUNT - worthless)
    assert sorted(group.count for group in result.groups) == sorted(kinds.values())
    assert result.failures == Counter({"CrashReportError": worthless})
    largest = result.groups[0]
    shared = {feature.name: feature.value for feature in largest.shared}
    assert largest.count == max(kinds.values())
    assert shared["module"] == "/data/app/lib/libexample.so"
    assert "pointer_tag" not in shared  # they differ, and make no difference


def test_scan_that_was_interrupted_goes_on_where_it_stopped(crashes: Path, tmp_path: Path) -> None:
    plan = ScanPlan((str(crashes),), tmp_path / "out.jsonl", workers=2)

    def interrupt(now: ScanProgress) -> None:
        if now.done == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scan(plan, interrupt)
    with (tmp_path / "out.jsonl").open("ab") as file:
        file.write(b'{"url": "cut short')
    before = records_of_whole_lines(tmp_path / "out.jsonl")
    moments: list[ScanProgress] = []
    result = scan(plan, moments.append)

    assert before >= 20
    assert moments[0] == ScanProgress(before, COUNT, before)
    assert moments[-1] == ScanProgress(COUNT, COUNT, before)
    assert result.files == COUNT
    assert found(records_of(tmp_path / "out.jsonl")) == expected()


def records_of_whole_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n")


def test_file_that_changed_is_explained_again(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(crash_file(0))
    plan = ScanPlan((str(tmp_path / "one"),), tmp_path / "out.jsonl")
    scan(plan)
    (tmp_path / "one").write_bytes(b"no crash any more")

    result = scan(plan)

    assert (result.files, result.crashes, len(result.failed)) == (1, 0, 1)
    assert len(records_of(tmp_path / "out.jsonl")) == 2


def test_table_has_all_records_and_is_gone_on_with(crashes: Path, tmp_path: Path) -> None:
    from pyarrow.parquet import read_table  # noqa: PLC0415 (seconds to load)

    plan = ScanPlan((str(crashes / "000" / "crash-00000?"),), tmp_path / "t.parquet", workers=2)
    scan(plan)
    whole = ScanPlan((str(crashes / "000" / "crash-00001?"), *plan.patterns), plan.out)
    moments: list[ScanProgress] = []
    result = scan(whole, moments.append)

    rows = read_table(plan.out).to_pylist()
    assert moments[0].before == 10
    assert result.files == 20
    assert sorted(row["url"] for row in rows) == sorted(
        str(crashes / "000" / f"crash-{number:06}") for number in range(20)
    )
    assert [*tmp_path.glob("*.partial")] == []


def test_two_scans_do_not_write_to_one_file(crashes: Path, tmp_path: Path) -> None:
    plan = ScanPlan((str(crashes),), tmp_path / "out.jsonl", workers=1)

    def again(now: ScanProgress) -> None:
        if now.done == 1:
            scan(plan)

    with pytest.raises(HostError, match="another scan writes to it"):
        scan(plan, again)


def test_foreign_file_is_not_gone_on_with(crashes: Path, tmp_path: Path) -> None:
    (tmp_path / "notes").write_text('{"a": 1}\n')

    with pytest.raises(UsageError, match=r"at 0x0 is no record of a scan \(a record has no 'a'"):
        scan(ScanPlan((str(crashes),), tmp_path / "notes"))

    assert (tmp_path / "notes").read_text() == '{"a": 1}\n'


def test_helper_that_is_killed_loses_nothing(crashes: Path, tmp_path: Path) -> None:
    """All helpers are killed twice; each file has three tries."""
    killed = 0

    def kill(now: ScanProgress) -> None:
        nonlocal killed
        if now.done in (10, 30):
            for pid in helpers_of(os.getpid()):
                os.kill(pid, signal.SIGKILL)
                killed += 1

    result = scan(ScanPlan((str(crashes),), tmp_path / "out.jsonl", workers=2), kill)

    assert killed >= 2
    assert result.files == COUNT
    assert found(records_of(tmp_path / "out.jsonl")) == expected()


def helpers_of(parent: int) -> list[int]:
    """Return the helpers that this process started."""
    children = Path(f"/proc/{parent}/task").glob("*/children")
    pids = [int(pid) for child in children for pid in child.read_text().split()]
    return [pid for pid in pids if b"tagalong.scan.helper" in command_line(pid)]


def command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_file_that_takes_too_long_is_a_failure(tmp_path: Path) -> None:
    helper = Helper(timeout_s=0.01)

    ((record,),) = helper.explain([Item(str(tmp_path / "x"), 1, "")])
    helper.close()

    assert record.error == "it was not explained within 0.01 s"
    assert record.error_class == "HelperEnded"


def test_helper_that_ends_each_time_is_a_failure(tmp_path: Path) -> None:
    helper = Helper(timeout_s=60)
    stopped = threading.Event()

    def killer() -> None:
        while not stopped.is_set():
            for pid in helpers_of(os.getpid()):
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)

    thread = threading.Thread(target=killer)
    thread.start()
    try:
        ((record,),) = helper.explain([Item(str(tmp_path / "x"), 1, "")])
    finally:
        stopped.set()
        thread.join()
        helper.close()

    assert record.error == "the process that explained it ended by SIGKILL"


def test_helper_goes_with_the_process_that_asks() -> None:
    code = (
        "from tagalong.scan.helper import Helper; from tagalong.scan.items import Item;"
        "h = Helper(60); h.explain([Item('/nowhere', 0, '')]); print(h._process.pid, flush=True);"
        "import os; os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    pid = int(done.stdout)

    deadline = time.monotonic() + 60
    while b"tagalong.scan.helper" in command_line(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert b"tagalong.scan.helper" not in command_line(pid)


def test_patterns_name_each_file_once_in_order(tmp_path: Path) -> None:
    for name in ("b", "a", "deep/c"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    os.symlink("/nowhere", tmp_path / "broken")

    urls = [
        str(Path(item.url).relative_to(tmp_path))
        for item in items_of([str(tmp_path / "b"), str(tmp_path), str(tmp_path / "**" / "c")])
    ]

    assert urls == ["b", "a", "broken", "deep/c"]


@pytest.mark.parametrize("pattern", ["/nowhere/at/all", "/nowhere/*.core"])
def test_pattern_without_files_is_refused(pattern: str) -> None:
    with pytest.raises(UsageError, match="names no file: give a file, a folder, or a pattern"):
        list(items_of([pattern]))


def test_storage_that_is_unknown_is_refused() -> None:
    with pytest.raises((UsageError, HostError), match="cannot open nowhere://x/y: "):
        list(items_of(["nowhere://x/y"]))


def test_scheduler_that_is_not_there_is_named(
    crashes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tagalong.scan.runner._CONNECT_S", 1)

    with pytest.raises(HostError, match="cannot reach the Dask scheduler at tcp:"):
        scan(ScanPlan((str(crashes),), scheduler="tcp://127.0.0.1:1"))


def test_command_prints_groups_and_writes_a_page(
    crashes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"

    status = invoke(["scan", str(crashes), "--groups", "1", "--html", str(page), "--workers", "2"])

    said = capsys.readouterr()
    kinds = expected()
    worthless = kinds.pop("none")
    assert status == 0
    assert said.out.startswith(f"{COUNT - worthless} crashes in {COUNT} files, in 5 groups\n")
    assert f"\n... {len(kinds) - 1} more groups\n" in said.out
    assert "1 file could not be explained: 1 CrashReportError" in said.out
    assert max(map(len, said.out.splitlines())) <= 80 + len(str(crashes))
    assert "libexample.so!" in page.read_text()
    assert "script-src &#x27;none&#x27;" in page.read_text()
