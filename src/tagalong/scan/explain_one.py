"""An item to its records."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from tagalong.errors import TagalongError, with_causes
from tagalong.explain.analysis import explain
from tagalong.explain.crash import Crash
from tagalong.explain.readers import open_crashes
from tagalong.scan.items import Item, local_copy
from tagalong.scan.record import CrashRecord


def explain_item(item: Item, progress: Callable[[], None] = lambda: None) -> list[CrashRecord]:
    """Return a record for each crash in a file, or one with the reason why there is none.

    `progress` is called from another thread while parts of the file arrive.
    """
    started = time.perf_counter()
    place = item.url

    def failure(reason: str, kind: str) -> list[CrashRecord]:
        return [CrashRecord.of_failure(item, reason, kind, time.perf_counter() - started)]

    try:
        with local_copy(item, progress) as path:
            place = str(path)
            with open_crashes(path) as crashes:
                found = [*_records(item, crashes, started)]
    except TagalongError as error:
        # The copy of a file has no name that says anything.
        return failure(with_causes(error).replace(place, item.url), type(error).__name__)
    except MemoryError:
        return failure("it needs more memory than there is", "MemoryError")
    except Exception as error:  # noqa: BLE001 (a bug that one file meets must not end a scan)
        return failure(f"a bug in tagalong: {error!r}", type(error).__name__)
    if not found:
        return failure("the file has no crash in it", "NoCrash")
    return [replace(each, reports=len(found)) for each in found]


def _records(item: Item, crashes: Iterable[Crash], started: float) -> Iterator[CrashRecord]:
    """Yield a record per crash; opening the file counts for the first."""
    for number, crash in enumerate(crashes, 1):
        explanation = explain(crash)
        now = time.perf_counter()
        yield CrashRecord.of_explanation(item, number, explanation, now - started)
        started = now
