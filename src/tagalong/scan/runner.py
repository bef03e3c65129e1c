"""Runs helpers: as many as wanted here, or one for each thread of a Dask cluster's workers.

Either way results come in any order, as soon as they are there, and only so many items are under
way that a scan of a million files costs no memory.
"""

import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, ThreadPoolExecutor, wait
from itertools import islice
from queue import Empty, SimpleQueue
from typing import Any, Final

from tagalong.errors import HostError
from tagalong.scan.deadline import within
from tagalong.scan.helper import Helper
from tagalong.scan.items import EXTRA, Item
from tagalong.scan.record import CrashRecord

Results = Iterator[list[CrashRecord]]

_AHEAD: Final = 4
_CONNECT_S: Final = 30
_RECOUNT_S: Final = 5.0
_RESUBMISSIONS: Final = 2
_BATCH_S: Final = 0.25
_MOST_ITEMS: Final = 64


def run_here(items: Iterable[Item], *, workers: int, timeout_s: float) -> Results:
    """Explain items in `workers` processes of this host; `timeout_s` is per item.

    Raises HostError if no process can be started.
    """
    pool, executor = _Helpers(timeout_s), ThreadPoolExecutor(workers)
    try:
        yield from _bounded(
            items, lambda batch: executor.submit(pool.explain, batch), _AHEAD * workers
        )
    finally:
        pool.give_up()
        executor.shutdown(cancel_futures=True)
        pool.close()


class _Helpers:
    """A helper per thread; all end together."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._own = threading.local()
        self._all: list[Helper] = []

    def explain(self, items: Sequence[Item]) -> list[list[CrashRecord]]:
        """Return the records of each item, from this thread's helper."""
        if not hasattr(self._own, "helper"):
            self._own.helper = Helper(self._timeout_s)
            self._all.append(self._own.helper)
        helper: Helper = self._own.helper
        return helper.explain(items)

    def give_up(self) -> None:
        """End all helpers; a thread that waits for one gets no other."""
        for helper in self._all:
            helper.give_up()

    def close(self) -> None:
        """Close what is left of them, when no thread uses one any more."""
        for helper in self._all:
            helper.close()


class _BatchSize:
    """How many items to hand over at once: what takes a fraction of a second.

    To hand over one costs a millisecond here, and another in a scheduler: as much as a report takes
    to explain.
    """

    def __init__(self) -> None:
        self.items = 1

    def note(self, answers: Sequence[Sequence[CrashRecord]]) -> None:
        """Take what a batch took."""
        took = sum(record.duration_s for records in answers for record in records)
        mean = max(took / len(answers), 1e-6)
        self.items = max(1, min(_MOST_ITEMS, int(_BATCH_S / mean)))


def _bounded(
    items: Iterable[Item],
    submit: Callable[[Sequence[Item]], Future[list[list[CrashRecord]]]],
    most: int,
) -> Results:
    """Yield results as they come, with `most` batches under way."""
    left, size = iter(items), _BatchSize()
    pending: set[Future[list[list[CrashRecord]]]] = set()
    while True:
        while len(pending) < most and (batch := [*islice(left, size.items)]):
            pending.add(submit(batch))
        if not pending:
            return
        done, pending = wait(pending, return_when=FIRST_COMPLETED)
        for future in done:
            answers = future.result()
            size.note(answers)
            yield from answers


def run_on_cluster(items: Iterable[Item], *, scheduler: str, timeout_s: float) -> Results:
    """Explain items on the Dask cluster whose scheduler has this address.

    The cluster's workers need tagalong, and must see local paths as this host does. An item whose
    worker is lost runs on another. Raises HostError if Dask is not installed, the scheduler cannot
    be reached, goes away or does not answer any more, there is no worker for `timeout_s`, or the
    workers cannot run tagalong.
    """
    try:
        import distributed  # noqa: PLC0415 (an extra)
    except ImportError as error:
        raise HostError(f"--scheduler needs Dask, which is not installed: {EXTRA}") from error
    dask: Any = distributed
    try:
        # Its own deadline is not one for a server that accepts and says nothing.
        client = within(
            2 * _CONNECT_S,
            lambda: dask.Client(scheduler, timeout=_CONNECT_S, set_as_default=False),
        )
    except (OSError, ValueError) as error:  # a TimeoutError is an OSError
        reason = str(error) or "it does not answer"
        raise HostError(f"cannot reach the Dask scheduler at {scheduler}: {reason}") from error
    try:
        yield from _Cluster(dask, client, scheduler, timeout_s).results(items)
    except (CancelledError, OSError) as error:
        raise HostError(
            f"the Dask scheduler at {scheduler} has gone, or does not answer any more"
        ) from error
    finally:
        client.close(timeout=5)


class _Cluster:
    """Items on their way through a cluster, a batch per task."""

    def __init__(self, dask: Any, client: Any, scheduler: str, timeout_s: float) -> None:
        self._dask = dask
        self._client = client
        self._scheduler = scheduler
        self._timeout_s = timeout_s
        self._pending: dict[str, tuple[list[Item], int]] = {}
        self._done: SimpleQueue[Any] = SimpleQueue()
        self._size = _BatchSize()
        self._most_tasks = 0
        self._counted = -math.inf

    def results(self, items: Iterable[Item]) -> Results:
        """Yield the records of each item."""
        left = iter(items)
        self._fill(left)
        while self._pending:
            yield from self._records(self._next())
            self._fill(left)

    def _fill(self, left: Iterator[Item]) -> None:
        if time.monotonic() > self._counted + _RECOUNT_S:
            self._count_threads()
        while len(self._pending) < self._most_tasks:
            batch = [*islice(left, self._size.items)]
            if not batch:
                return
            self._submit(batch, 0)

    def _count_threads(self) -> int:
        """Find out how many threads there are: workers come and go."""
        workers = self._client.sync(self._client.scheduler.ncores, callback_timeout=_CONNECT_S)
        threads = int(sum(workers.values()))
        self._most_tasks = _AHEAD * max(threads, 1)
        self._counted = time.monotonic()
        return threads

    def _submit(self, batch: list[Item], number: int) -> None:
        plain = [each.to_json() for each in batch]
        future = self._client.submit(explain_on_worker, plain, self._timeout_s, pure=False)
        self._pending[future.key] = (batch, number)
        future.add_done_callback(self._done.put)

    def _next(self) -> Any:
        """Return the next task that is done. Raises if there will be none."""
        started = time.monotonic()
        while True:
            try:
                return self._done.get(timeout=_RECOUNT_S)
            except Empty:
                if not self._count_threads() and time.monotonic() > started + self._timeout_s:
                    raise HostError(
                        f"the Dask cluster of {self._scheduler} has had no worker for "
                        f"{self._timeout_s:g} s; start workers, and repeat the command"
                    ) from None

    def _records(self, future: Any) -> Iterator[list[CrashRecord]]:
        batch, number = self._pending.pop(future.key)
        try:
            plain = future.result()
        except self._dask.KilledWorker:
            yield from self._again(batch, number)
            return
        except (CancelledError, OSError):
            raise
        except Exception as error:  # what a worker raised before a helper ran
            raise HostError(
                f"the workers of {self._scheduler} cannot explain: {error!r}"
            ) from error
        answers = [[CrashRecord.from_json(each) for each in records] for records in plain]
        self._size.note(answers)
        yield from answers

    def _again(self, batch: list[Item], number: int) -> Iterator[list[CrashRecord]]:
        """Explain items whose worker ended, each alone: one may have taken all memory there.

        Dask has tried them on several workers by then.
        """
        if number < _RESUBMISSIONS:
            for item in batch:
                self._submit([item], number + 1)
            return
        reason = "the workers that explained it ended again and again"
        for item in batch:
            yield [CrashRecord.of_failure(item, reason, "HelperEnded")]


_of_worker = threading.local()


def explain_on_worker(items: list[dict[str, Any]], timeout_s: float) -> list[list[dict[str, Any]]]:
    """Return the records of each item as plain values; runs in a thread of a Dask worker."""
    if getattr(_of_worker, "timeout_s", None) != timeout_s:
        _of_worker.helper, _of_worker.timeout_s = Helper(timeout_s), timeout_s
    helper: Helper = _of_worker.helper
    answers = helper.explain([Item(**item) for item in items])
    return [[each.to_json() for each in records] for records in answers]
