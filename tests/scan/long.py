"""Ten thousand crashes: each found, what one costs, and how a scan scales (make scan).

    python -m tests.scan.long [--count 10000] [--only here|cluster|bucket]

here       processes of this host: 1, 2 and 4
cluster    a dask.distributed cluster with 1, 2 and 4 workers, each a process of its own
bucket     an S3 server, and a cluster of which workers are killed; the scan is stopped half way and
           goes on
"""

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from s3fs import S3FileSystem

from tagalong.scan.groups import ScanResult
from tagalong.scan.scanning import ScanPlan, ScanProgress, scan
from tests.support.dask_cluster import dask_cluster, s3_server
from tests.support.many_crashes import crash_file, kind_of, write_crashes

_KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
_PUT_AT_ONCE = 500


def main() -> None:
    """Measure, and end with an error if one crash is missing."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--only", choices=("here", "cluster", "bucket"))
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in (here, cluster, bucket):
            if asked.only in (None, part.__name__):
                (folder / part.__name__).mkdir()
                part(folder / part.__name__, asked.count)


def here(folder: Path, count: int) -> None:
    """Scan with processes of this host."""
    write_crashes(folder / "crashes", count)
    for workers in (1, 2, 4):
        plan = ScanPlan((str(folder / "crashes"),), folder / f"{workers}.jsonl", None, workers)
        measure(f"{workers} processes here", count, lambda plan=plan: scan(plan))  # type: ignore[misc]


def cluster(folder: Path, count: int) -> None:
    """Scan on clusters of several sizes."""
    write_crashes(folder / "crashes", count)
    for workers in (1, 2, 4):
        (folder / str(workers)).mkdir()
        with dask_cluster(folder / str(workers), workers) as running:
            plan = ScanPlan(
                (str(folder / "crashes"),), folder / f"{workers}.jsonl", running.address
            )
            measure(f"{workers} Dask workers", count, lambda plan=plan: scan(plan))  # type: ignore[misc]


def bucket(folder: Path, count: int) -> None:
    """Scan a bucket on a cluster whose workers are killed; stop, and go on."""
    with s3_server(folder) as url:
        keys = {**_KEYS, "AWS_ENDPOINT_URL": url, "AWS_DEFAULT_REGION": "us-east-1"}
        os.environ.update(keys)
        fill(S3FileSystem(key="test", secret="test", endpoint_url=url), count)
        with dask_cluster(folder, 2, **keys) as running:
            plan = ScanPlan(("s3://crashes",), folder / "out.parquet", running.address)

            def mishaps(now: ScanProgress) -> None:
                for at, worker in ((count // 4, 0), (count // 3, 1)):
                    if now.done == at:
                        running.add_worker()
                        running.kill_worker(worker)
                if now.done == count // 2 and not now.before:
                    raise KeyboardInterrupt

            def stopped() -> ScanResult:
                try:
                    return scan(plan, mishaps)
                except KeyboardInterrupt:
                    return scan(plan, mishaps)

            measure("S3, 2 Dask workers killed, stopped once", count, stopped)


def fill(files: S3FileSystem, count: int) -> None:
    """Put the crashes into the bucket."""
    files.mkdir("crashes")
    for first in range(0, count, _PUT_AT_ONCE):
        numbers = range(first, min(first + _PUT_AT_ONCE, count))
        files.pipe({f"crashes/{n // 1000:03}/crash-{n:06}": crash_file(n) for n in numbers})


def measure(what: str, count: int, action: Callable[[], ScanResult]) -> None:
    """Scan and check, and print the cost."""
    started = time.perf_counter()
    result = action()
    took = time.perf_counter() - started
    kinds = Counter(kind_of(number) for number in range(count))
    worthless = kinds.pop("none")
    if (result.files, len(result.failed)) != (count, worthless) or sorted(
        group.count for group in result.groups
    ) != sorted(kinds.values()):
        sys.exit(f"{what}: {result.files} files, {result.crashes} crashes: some are lost")
    each = 1000 * result.explained_s / max(result.crashes, 1)
    sys.stdout.write(
        f"{what:40} {took:6.1f} s  {count / took:6,.0f} files/s  "
        f"{1000 * took / count:5.2f} ms a file  {each:.2f} ms to explain one\n"
    )
    sys.stdout.flush()


if __name__ == "__main__":
    main()
