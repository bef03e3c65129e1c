"""What names, files, disks, servers and kills can do to a scan: it ends with all records."""

import json
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tagalong.cli.app import invoke
from tagalong.errors import HostError
from tagalong.printable import is_presentable
from tagalong.scan.helper import Helper
from tagalong.scan.items import Item, items_of
from tagalong.scan.record import CrashRecord
from tagalong.scan.scanning import ScanPlan, scan
from tests.support.many_crashes import crash_file, write_crashes
from tests.support.page_parts import PageParts
from tests.support.web_server import WebServer, silent_server, web_server

COUNT = 24
HOSTILE = (
    b"\x1b[2J\x1b[31mred", b"two\nlines", b"<script>alert(1)</script>", b"\xff\xfe", b"%ff",
    "\u202eright to left".encode(), b"*", b"a'\"&b", b"-rf", b"core://name",
)  # fmt: skip


@pytest.fixture(scope="module")
def crashes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("crashes")
    write_crashes(folder, COUNT)
    return folder


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """Return a folder of crashes whose names do what names can do."""
    folder = tmp_path / "names"
    folder.mkdir()
    for number, name in enumerate(HOSTILE):
        path = os.path.join(os.fsencode(folder), name)
        if b"/" in name:
            os.makedirs(os.path.dirname(path))
        with open(path, "wb") as file:
            file.write(crash_file(number) if number % 2 else b"worthless")
    return folder


@pytest.fixture
def web() -> Iterator[WebServer]:
    with web_server() as server:
        yield server


def records_of(path: Path) -> list[CrashRecord]:
    return [CrashRecord.from_json(json.loads(line)) for line in path.read_text().splitlines()]


def without_times(records: list[CrashRecord]) -> list[CrashRecord]:
    return sorted((replace(each, duration_s=0.0) for each in records), key=lambda each: each.url)


@pytest.mark.parametrize("name", ["out.jsonl", "out.parquet"])
def test_hostile_names_steer_no_terminal_and_no_page(
    hostile: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    page, out = tmp_path / "page.html", tmp_path / name
    command = ["scan", str(hostile), "--out", str(out), "--html", str(page), "--workers", "1"]

    statuses = [invoke(command), invoke(command)]

    said = capsys.readouterr()
    assert statuses == [0, 0]
    assert all(is_presentable(character) for character in said.out if character != "\n")
    assert f"in {len(HOSTILE)} files" in said.out
    assert PageParts(page.read_text()).named("script") == []
    assert "\x1b" not in page.read_text()
    if out.suffix == ".jsonl":
        # The second scan knew them all again.
        assert len({each.url for each in records_of(out)}) == len(HOSTILE)
        assert len(records_of(out)) == len(HOSTILE)


def test_name_that_is_no_text_is_kept_as_a_url(hostile: Path, tmp_path: Path) -> None:
    scan(ScanPlan((str(hostile),), tmp_path / "out.jsonl", workers=1))

    (found,) = [each for each in records_of(tmp_path / "out.jsonl") if each.url.startswith("file:")]
    assert found.url == f"file://{hostile}/%FF%FE"
    (named,) = items_of([found.url])
    assert named == found.item


def test_what_is_no_file_is_named_and_not_opened(tmp_path: Path) -> None:
    folder = tmp_path / "things"
    folder.mkdir()
    os.mkfifo(folder / "fifo")
    (folder / "crash").write_bytes(crash_file(0))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "socket"))
        listener.listen()
        result = scan(ScanPlan((str(folder),), workers=1))

    assert (result.files, result.crashes) == (3, 1)
    assert {each.error for each in result.failed} == {
        f"cannot open {folder}/{name}: it is no regular file; a scan reads nothing else"
        for name in ("fifo", "socket")
    }


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("folder", "it is a directory; give a file name"),
        ("fifo", "it is a FIFO; give a file name"),
        ("terminal", "it is a character device; give a file name"),
        ("nowhere/out", "No such file or directory"),
        ("/proc/self/fd/1", "it names a descriptor of this process"),
    ],
)
@pytest.mark.parametrize("option", ["--out", "--html"])
def test_output_that_is_no_file_is_refused_before_the_scan(
    crashes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch, name: str, reason: str, option: str,
) -> None:  # fmt: skip
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    ends = os.openpty()
    (tmp_path / "terminal").symlink_to(os.ttyname(ends[1]))
    monkeypatch.setattr("tagalong.scan.scanning._run", pytest.fail)

    status = invoke(["scan", str(crashes), option, str(tmp_path / name)])

    for each in ends:
        os.close(each)
    assert status == 10
    assert reason in capsys.readouterr().err


def limited(most_bytes: int, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run the command where no file can become larger, as on a disk that is full."""
    return subprocess.run(
        [sys.executable, "-m", "tagalong", *arguments], capture_output=True, text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes)),
    )  # fmt: skip


def test_disk_that_is_full_ends_a_scan_that_can_go_on(crashes: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"

    ended = limited(5000, "scan", str(crashes), "--out", str(out), "--workers", "1")
    result = scan(ScanPlan((str(crashes),), out))

    assert ended.returncode == 10, ended.stderr
    assert f"cannot write {out}: File too large" in ended.stderr
    assert result.files == COUNT
    assert len(records_of(out)) == COUNT


def test_page_that_cannot_be_written_leaves_the_report(crashes: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"

    ended = limited(5000, "scan", str(crashes), "--html", str(page), "--workers", "1")

    assert ended.returncode == 10, ended.stderr
    assert f"cannot write {page}: File too large" in ended.stderr
    assert f"in {COUNT} files, in" in ended.stdout
    assert not page.exists()


@pytest.fixture(scope="module")
def whole(crashes: Path, tmp_path_factory: pytest.TempPathFactory) -> list[CrashRecord]:
    """Return the records of a scan that nothing happens to."""
    out = tmp_path_factory.mktemp("whole") / "out.jsonl"
    scan(ScanPlan((str(crashes),), out))
    return without_times(records_of(out))


def killed(crashes: Path, out: Path, call: str, number: int) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.killed_scan", str(crashes), str(out), call,
         str(number)],
        capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()


def test_scan_that_is_killed_and_goes_on_has_the_records_of_a_whole_one(
    crashes: Path, tmp_path: Path, whole: list[CrashRecord]
) -> None:
    out = tmp_path / "out.jsonl"

    for number in (1, 9):
        killed(crashes, out, "write", number)
    result = scan(ScanPlan((str(crashes),), out))

    assert result.files == COUNT
    assert without_times(records_of(out)) == whole


def test_table_whose_scan_is_killed_at_any_step_loses_no_record(
    crashes: Path, tmp_path: Path, whole: list[CrashRecord]
) -> None:
    """While it is taken over, while files are explained, before it is there, before it is done."""
    from tagalong.scan.parquet import read_parquet  # noqa: PLC0415 (seconds to load)

    elsewhere, out = tmp_path / "old", tmp_path / "t.parquet"
    elsewhere.write_bytes(crash_file(1))
    scan(ScanPlan((str(elsewhere), str(crashes / "000" / "crash-00000?")), out))

    for call, number in (("write", 4), ("write", 20), ("replace", 1), ("unlink", 1)):
        killed(crashes, out, call, number)
    result = scan(ScanPlan((str(crashes),), out))

    urls = [each.url for each in whole]
    found = without_times([*read_parquet(out)])
    assert result.files == COUNT
    assert [each for each in found if each.url in urls] == whole
    assert [each.url for each in found if each.url not in urls] == [str(elsewhere)]
    assert not (tmp_path / "t.parquet.partial").exists()


def test_fresh_table_takes_nothing_from_the_one_before(crashes: Path, tmp_path: Path) -> None:
    from tagalong.scan.parquet import read_parquet  # noqa: PLC0415

    out = tmp_path / "t.parquet"
    first, second = (ScanPlan((str(crashes / "000" / f"crash-00000{n}"),), out) for n in (0, 1))
    scan(first)

    with pytest.raises(KeyboardInterrupt):
        scan(replace(second, fresh=True), interrupt)
    scan(second)

    assert [each.url for each in read_parquet(out)] == [second.patterns[0]]


def interrupt(_: object) -> None:
    raise KeyboardInterrupt


def test_file_that_comes_slowly_has_time_and_one_that_stalls_has_not(web: WebServer) -> None:
    # Parts that are larger than what is written at once.
    long = crash_file(1) + b"x" * 600_000
    web.pages = {"fast": crash_file(0), "slow": long, "stalled": long}
    web.drops = 24
    helper = Helper(timeout_s=120)
    (fast,) = helper.explain([Item(f"{web.url}/fast", 0, "")])

    helper.timeout_s = 3
    slow, stalled = helper.explain(
        [Item(f"{web.url}/{name}", 0, "") for name in ("slow", "stalled")]
    )
    helper.close()

    assert [each.error for each in (*fast, *slow)] == [None, None]
    assert slow[0].duration_s > helper.timeout_s
    assert [each.error for each in stalled] == ["it was not explained within 3 s"]


def test_file_of_the_web_is_not_read_to_list_it(web: WebServer) -> None:
    web.pages = {"stalled.core": bytes(100)}

    assert [each.url for each in items_of([f"{web.url}/stalled.core"])] == [
        f"{web.url}/stalled.core"
    ]


def test_error_of_a_copy_names_the_url(web: WebServer) -> None:
    web.pages = {"core": b"\x7fELF" + bytes(100)}

    result = scan(ScanPlan((f"{web.url}/core",), workers=1))

    (failed,) = result.failed
    assert failed.error is not None
    assert failed.error.startswith(f"{web.url}/core: ")


def test_server_that_says_nothing_ends_the_listing() -> None:
    with (
        silent_server() as port,
        pytest.raises(HostError, match=r"cannot list http.*: there is no answer within 1 s"),
    ):
        list(items_of([f"http://127.0.0.1:{port}/crash"], timeout_s=1))


def test_scheduler_that_says_nothing_is_named(
    crashes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tagalong.scan.runner._CONNECT_S", 1)

    with silent_server() as port, pytest.raises(HostError, match="cannot reach the Dask scheduler"):
        scan(ScanPlan((str(crashes),), scheduler=f"tcp://127.0.0.1:{port}"))
