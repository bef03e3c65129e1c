"""Ten thousand crashes: each found, cost per crash, and how a scan scales (make scan).

python -m tests.scan.long [--count 10000]
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tagalong.scan.scanning import ScanPlan, ScanProgress, scan
from tests.support.dask_cluster import Cluster, dask_cluster
from tests.support.many_crashes import kind_of, write_crashes


def main() -> None:
    """Measure, and end with an error if one crash is missing."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=10_000)
    count = parser.parse_args().count
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_crashes(folder / "crashes", count)
        for workers in (1, 2, 4):
            plan = ScanPlan((str(folder / "crashes"),), folder / f"{workers}.jsonl", None, workers)
            measure(f"{workers} processes here", plan, count)
        with dask_cluster(folder, 2) as cluster:
            plan = ScanPlan((str(folder / "crashes"),), folder / "d.jsonl", cluster.address)
            measure("2 Dask workers, one killed half way", plan, count, cluster)


def measure(what: str, plan: ScanPlan, count: int, cluster: Cluster | None = None) -> None:
    """Scan and check, and print the cost."""

    def progress(now: ScanProgress) -> None:
        if cluster and now.done == count // 2:
            cluster.add_worker()
            cluster.kill_worker(0)

    started = time.perf_counter()
    result = scan(plan, progress)
    took = time.perf_counter() - started
    kinds = Counter(kind_of(number) for number in range(count))
    worthless = kinds.pop("none")
    if (result.files, len(result.failed)) != (count, worthless) or sorted(
        group.count for group in result.groups
    ) != sorted(kinds.values()):
        sys.exit(f"{what}: {result.files} files, {result.crashes} crashes: some are lost")
    each = 1000 * result.explained_s / max(result.crashes, 1)
    sys.stdout.write(
        f"{what:36} {took:7.1f} s  {count / took:7,.0f} files/s  {each:.2f} ms to explain one\n"
    )
    sys.stdout.flush()


if __name__ == "__main__":
    main()
