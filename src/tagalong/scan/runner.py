"""Runs helpers: as many as wanted here, or one for each thread of a Dask cluster's workers.

Either way results come in any order, as soon as they are there, and only so many items are under
way that a scan of a million files costs no memory.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, ThreadPoolExecutor, wait
from dataclasses import asdict
from itertools import islice
from typing import Any, Final

from tagalong.errors import HostError
from tagalong.scan.helper import Helper
from tagalong.scan.items import EXTRA, Item
from tagalong.scan.record import CrashRecord

Results = Iterator[list[CrashRecord]]

_AHEAD: Final = 4
_CONNECT_S: Final = 30
_RECOUNT_S: Final = 5.0
_RESUBMISSIONS: Final = 10


def run_here(items: Iterable[Item], *, workers: int, timeout_s: float) -> Results:
    """Explain items in `workers` processes of this host; `timeout_s` is per item.

    Raises HostError if no process can be started.
    """
    pool, executor = _Helpers(timeout_s), ThreadPoolExecutor(workers)
    try:
        yield from _bounded(
            items, lambda each: executor.submit(pool.explain, each), _AHEAD * workers
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

    def explain(self, item: Item) -> list[CrashRecord]:
        """Return the records of an item, from this thread's helper."""
        if not hasattr(self._own, "helper"):
            self._own.helper = Helper(self._timeout_s)
            self._all.append(self._own.helper)
        helper: Helper = self._own.helper
        return helper.explain(item)

    def give_up(self) -> None:
        """End all helpers; a thread that waits for one gets no other."""
        for helper in self._all:
            helper.give_up()

    def close(self) -> None:
        """Close what is left of them, when no thread uses one any more."""
        for helper in self._all:
            helper.close()


def _bounded(
    items: Iterable[Item], submit: Callable[[Item], Future[list[CrashRecord]]], most: int
) -> Results:
    """Yield results as they come, with `most` items under way."""
    left = iter(items)
    pending = {submit(each) for each in islice(left, most)}
    while pending:
        done, pending = wait(pending, return_when=FIRST_COMPLETED)
        for future in done:
            yield future.result()
        pending |= {submit(each) for each in islice(left, most - len(pending))}


def run_on_cluster(items: Iterable[Item], *, scheduler: str, timeout_s: float) -> Results:
    """Explain items on the Dask cluster whose scheduler has this address.

    The cluster's workers need tagalong, and must see local paths as this host does. An item whose
    worker is lost runs on another. Raises HostError if Dask is not installed, the scheduler cannot
    be reached or goes away, or its workers cannot run tagalong.
    """
    try:
        import distributed  # noqa: PLC0415 (an extra)
    except ImportError as error:
        raise HostError(f"--scheduler needs Dask, which is not installed: {EXTRA}") from error
    dask: Any = distributed
    try:
        client = dask.Client(scheduler, timeout=_CONNECT_S, set_as_default=False)
    except (OSError, ValueError) as error:  # a TimeoutError is an OSError
        raise HostError(f"cannot reach the Dask scheduler at {scheduler}: {error}") from error
    try:
        yield from _on_client(dask, client, items, scheduler, timeout_s)
    except (CancelledError, OSError) as error:
        raise HostError(f"the Dask scheduler at {scheduler} has gone") from error
    finally:
        client.close(timeout=5)


def _on_client(
    dask: Any, client: Any, items: Iterable[Item], scheduler: str, timeout_s: float
) -> Results:
    left = iter(items)
    tries: dict[str, tuple[Item, int]] = {}
    completed = dask.as_completed(loop=client.loop)

    def submit(item: Item, number: int = 0) -> None:
        future = client.submit(explain_on_worker, asdict(item), timeout_s, pure=False)
        tries[future.key] = (item, number)
        completed.add(future)

    room = _Room(client)
    for item in islice(left, room.items()):
        submit(item)
    for future in completed:
        item, number = tries.pop(future.key)
        try:
            answer = future.result()
        except dask.KilledWorker as error:
            # Its helper cannot have ended the worker: somebody ends workers.
            if number == _RESUBMISSIONS:
                raise HostError(f"the workers of {scheduler} end again and again") from error
            submit(item, number + 1)
            continue
        except (CancelledError, OSError):
            raise
        except Exception as error:  # what a worker raised before a helper ran
            raise HostError(f"the workers of {scheduler} cannot explain: {error!r}") from error
        yield [CrashRecord.from_json(each) for each in answer]
        for following in islice(left, max(0, room.items() - len(tries))):
            submit(following)


class _Room:
    """How many items may be under way on a cluster: its workers come and go."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._items = 0
        self._due = 0.0

    def items(self) -> int:
        """Return the number for the threads that there are now, or were a few seconds ago."""
        if time.monotonic() >= self._due:
            threads = int(sum(self._client.nthreads().values()))
            self._items = _AHEAD * max(threads, 1)
            self._due = time.monotonic() + _RECOUNT_S
        return self._items


_of_worker = threading.local()


def explain_on_worker(item: dict[str, Any], timeout_s: float) -> list[dict[str, Any]]:
    """Return the records of an item as plain values; runs in a thread of a Dask worker."""
    if getattr(_of_worker, "timeout_s", None) != timeout_s:
        _of_worker.helper, _of_worker.timeout_s = Helper(timeout_s), timeout_s
    return [each.to_json() for each in _of_worker.helper.explain(Item(**item))]
