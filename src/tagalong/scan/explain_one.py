"""An item to its records."""

import time
from dataclasses import replace

from tagalong.errors import TagalongError
from tagalong.explain.analysis import explain
from tagalong.explain.readers import open_crashes
from tagalong.scan.items import Item, local_copy
from tagalong.scan.record import CrashRecord


def explain_item(item: Item) -> list[CrashRecord]:
    """Return a record for each crash in a file, or one with the reason why there is none."""
    started = time.perf_counter()
    try:
        with local_copy(item) as path, open_crashes(path) as crashes:
            found = []
            for number, crash in enumerate(crashes, 1):
                explanation = explain(crash)
                took = time.perf_counter() - started
                found.append(CrashRecord.of_explanation(item, number, explanation, took))
                started = time.perf_counter()
    except (TagalongError, MemoryError) as error:
        return [CrashRecord.of_failure(item, error)]
    except Exception as error:  # noqa: BLE001 (a bug that one file meets must not end a scan)
        return [CrashRecord.of_failure(item, f"a bug in tagalong: {error!r}", type(error).__name__)]
    found = [replace(each, reports=len(found)) for each in found]
    return found or [CrashRecord.of_failure(item, "the file has no crash in it", "NoCrash")]
