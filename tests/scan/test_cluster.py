"""A scan of an S3 bucket on a Dask cluster: real processes, of which some are killed."""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import dask
import pytest
from s3fs import S3FileSystem

from tagalong.errors import HostError
from tagalong.scan.record import CrashRecord
from tagalong.scan.scanning import ScanPlan, ScanProgress, scan
from tests.support.dask_cluster import Cluster, dask_cluster, s3_server
from tests.support.many_crashes import crash_file, kind_of
from tests.support.web_server import web_server

COUNT = 60


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Fill a bucket and return the environment in which s3:// finds it."""
    with s3_server(tmp_path_factory.mktemp("s3")) as url:
        environment = {
            "AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }  # fmt: skip
        files = S3FileSystem(key="test", secret="test", endpoint_url=url)
        files.mkdir("crashes")
        for number in range(COUNT):
            files.pipe_file(f"crashes/day/{number:03}", crash_file(number))
        yield environment


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, storage: dict[str, str]) -> Iterator[Cluster]:
    with dask_cluster(tmp_path_factory.mktemp("dask"), 2, **storage) as running:
        yield running


@pytest.fixture(autouse=True)
def here(storage: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in storage.items():
        monkeypatch.setenv(name, value)


def records_of(path: Path) -> list[CrashRecord]:
    return [CrashRecord.from_json(json.loads(line)) for line in path.read_text().splitlines()]


def test_bucket_is_scanned_though_workers_are_killed(cluster: Cluster, tmp_path: Path) -> None:
    plan = ScanPlan(
        ("s3://crashes/day",), tmp_path / "out.jsonl", scheduler=cluster.address, timeout_s=120
    )

    def kill(now: ScanProgress) -> None:
        if now.done == 15:
            cluster.add_worker()
            cluster.kill_worker(0)
        if now.done == 35:
            cluster.add_worker()
            cluster.kill_worker(1)

    result = scan(plan, kill)

    records = records_of(plan.out or tmp_path)
    kinds = Counter(kind_of(number) for number in range(COUNT))
    worthless = kinds.pop("none")
    assert result.files == COUNT
    assert sorted(each.url for each in records) == [
        f"s3://crashes/day/{number:03}" for number in range(COUNT)
    ]
    assert sorted(group.count for group in result.groups) == sorted(kinds.values())
    assert len(result.failed) == worthless
    assert all(each.stamp for each in records)


def test_bucket_is_scanned_by_processes_here(tmp_path: Path) -> None:
    result = scan(ScanPlan(("s3://crashes/day/00?",), tmp_path / "out.jsonl", workers=1))

    assert (result.files, result.crashes) == (10, 10)


def test_object_that_went_away_is_a_failure(storage: dict[str, str], tmp_path: Path) -> None:
    files = S3FileSystem(key="test", secret="test", endpoint_url=storage["AWS_ENDPOINT_URL"])
    for name in ("a", "b"):
        files.pipe_file(f"crashes/short/{name}", crash_file(0))

    def remove(now: ScanProgress) -> None:
        if now.done == 0:
            files.rm("crashes/short/b")

    result = scan(ScanPlan(("s3://crashes/short",), tmp_path / "out.jsonl", workers=1), remove)

    assert (result.files, result.crashes) == (2, 1)
    (failed,) = result.failed
    assert failed.url == "s3://crashes/short/b"
    assert failed.error is not None
    assert failed.error.startswith("cannot fetch s3://crashes/short/b")


def test_scheduler_that_goes_away_ends_a_scan_that_can_go_on(
    storage: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "dask").mkdir()
    out = tmp_path / "out.jsonl"
    with dask_cluster(tmp_path / "dask", 1, **storage) as own:
        plan = ScanPlan(("s3://crashes/day/0[01]?",), out, scheduler=own.address)

        def end(now: ScanProgress) -> None:
            if now.done == 3:
                own.end_scheduler()

        with (
            dask.config.set({"distributed.comm.timeouts.connect": "2s"}),
            pytest.raises(HostError, match="has gone"),
        ):
            scan(plan, end)
    result = scan(ScanPlan(plan.patterns, out, workers=1))

    assert result.files == 20
    assert len(records_of(out)) == 20


def test_scheduler_that_does_not_answer_any_more_ends_a_scan(
    storage: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tagalong.scan.runner._CONNECT_S", 2)
    monkeypatch.setattr("tagalong.scan.runner._RECOUNT_S", 0.5)
    with dask_cluster(tmp_path, 1, **storage) as own:

        def freeze(now: ScanProgress) -> None:
            if now.done == 3:
                own.freeze_scheduler()

        with pytest.raises(HostError, match="has gone, or does not answer any more"):
            scan(ScanPlan(("s3://crashes/day",), scheduler=own.address), freeze)


def test_cluster_without_workers_ends_a_scan(
    storage: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tagalong.scan.runner._RECOUNT_S", 0.5)

    with (
        dask_cluster(tmp_path, 0, **storage) as own,
        pytest.raises(HostError, match=r"has had no worker for 1 s; start workers, and repeat"),
    ):
        scan(ScanPlan(("s3://crashes/day",), scheduler=own.address, timeout_s=1))


def test_file_that_ends_its_workers_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that takes all memory of a worker's container."""
    monkeypatch.setattr("tagalong.scan.runner._RESUBMISSIONS", 1)
    at_once = {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0"}
    with web_server() as web, dask_cluster(tmp_path, 1, **at_once) as own:
        web.pages = {"stalled": crash_file(9)}

        def end_workers() -> None:
            for number in range(2):
                wait_until(lambda number=number: web.stalls > number)  # type: ignore[misc]
                own.add_worker()
                own.kill_worker(number)

        killer = threading.Thread(target=end_workers)
        killer.start()
        plan = ScanPlan((f"{web.url}/stalled",), scheduler=own.address, timeout_s=600)
        result = scan(plan)
        killer.join()

    (failed,) = result.failed
    assert failed.error == "the workers that explained it ended again and again"


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
