"""A whole scan: what is to be done, what was done before, and the result."""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tagalong.errors import HostError
from tagalong.files import name_failure, require_file_name
from tagalong.scan.groups import ScanResult, summarize
from tagalong.scan.items import Item, items_of
from tagalong.scan.journal import Journal
from tagalong.scan.parquet import read_parquet, require_pyarrow, write_parquet
from tagalong.scan.record import CrashRecord
from tagalong.scan.runner import Results, run_here, run_on_cluster

_PARQUET: Final = ".parquet"


@dataclass(frozen=True)
class ScanPlan:
    """What to scan and how.

    `out`: where records go, a table if its name ends in .parquet, else lines of JSON; None keeps
    them in memory. `fresh`: write over it instead of going on. `scheduler`: of a Dask cluster;
    without it `workers` processes run here. `timeout_s` is per file,
    from its last byte that came; a storage has it to list files, a cluster to have a worker.
    """

    patterns: tuple[str, ...]
    out: Path | None = None
    scheduler: str | None = None
    workers: int = 1
    timeout_s: float = 300.0
    fresh: bool = False


@dataclass(frozen=True)
class ScanProgress:
    """How far a scan is, in files; `before` of the `done` ones by an earlier scan."""

    done: int
    total: int
    before: int


def scan(plan: ScanPlan, progress: Callable[[ScanProgress], None] = lambda _: None) -> ScanResult:
    """Explain all that a plan names, and group it.

    After an error or an interrupt `out` has what was done; the same plan goes on from there. A
    table is written when all is done: until then the records are in `out` with .partial behind it.

    Raises UsageError for a pattern that names nothing and for an `out` that is no scan's,
    HostError if files cannot be listed, `out` cannot be written, an extra is not installed, or the
    cluster is lost.
    """
    is_table = plan.out is not None and plan.out.suffix == _PARQUET
    if is_table:
        require_pyarrow()
    target = plan.out and require_file_name(plan.out).target
    found = items_of(plan.patterns, timeout_s=plan.timeout_s)
    items = [each for each in found if not _is_output(each, plan.out)]
    started = time.perf_counter()
    with ExitStack() as stack:
        if plan.out is None:
            kept: list[CrashRecord] = []
            _run(plan, items, set(), kept.extend, progress)
            result = summarize(kept)
        else:
            journal = stack.enter_context(Journal(_journal_name(plan.out), fresh=plan.fresh))
            if is_table and target:
                _go_on_with_table(target, journal, fresh=plan.fresh)
            _run(plan, items, journal.done, journal.add, progress)
            wanted = set(items)
            result = summarize(each for each in journal.records() if each.item in wanted)
            if is_table:
                write_parquet(plan.out, journal.records())
                journal.remove()
    result.duration_s = time.perf_counter() - started
    return result


def _run(
    plan: ScanPlan,
    items: Sequence[Item],
    done: set[Item],
    keep: Callable[[Sequence[CrashRecord]], None],
    progress: Callable[[ScanProgress], None],
) -> None:
    left = [each for each in items if each not in done]
    before = number = len(items) - len(left)
    progress(ScanProgress(number, len(items), before))
    for records in _results(plan, left):
        keep(records)
        number += 1
        progress(ScanProgress(number, len(items), before))


def _results(plan: ScanPlan, items: Iterable[Item]) -> Results:
    if plan.scheduler is None:
        return run_here(items, workers=plan.workers, timeout_s=plan.timeout_s)
    return run_on_cluster(items, scheduler=plan.scheduler, timeout_s=plan.timeout_s)


def _journal_name(out: Path) -> Path:
    return out.with_name(f"{out.name}.partial") if out.suffix == _PARQUET else out


def _is_output(item: Item, out: Path | None) -> bool:
    """Return whether a file is the scan's own, in a folder that it scans."""
    if out is None:
        return False
    return item.url in {os.path.abspath(out), os.path.abspath(_journal_name(out))}


def _go_on_with_table(table: Path, journal: Journal, *, fresh: bool) -> None:
    """Take over the records of a table that an earlier scan completed.

    A scan that was killed in the middle of this left a part of them in the journal. One that
    starts over removes the table at once, so that the scan after it takes nothing from there.
    """
    if fresh:
        try:
            table.unlink(missing_ok=True)
        except OSError as error:
            raise name_failure("cannot remove", table, error) from error
    if not table.exists():
        return
    try:
        for records in _by_file(read_parquet(table)):
            if records[0].item not in journal.done:
                journal.add(records)
                journal.done.add(records[0].item)
    except BaseException:
        if not journal.done:
            journal.remove()
        raise


def _by_file(records: Iterable[CrashRecord]) -> Iterator[list[CrashRecord]]:
    pending: list[CrashRecord] = []
    for record in records:
        pending.append(record)
        if len(pending) == record.reports:
            yield pending
            pending = []
    if pending:
        raise HostError("the table ends inside the records of one file; use --fresh")
