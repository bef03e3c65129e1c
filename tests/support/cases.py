"""One test over many cases: every case runs, and the failures are listed by their names.

For tables whose cases share one assertion. pytest's own parametrization costs about a
millisecond and a line of the report per case; a table of a thousand cases is one test.
"""

import traceback
from collections.abc import Callable, Iterable
from typing import TypeVar

import pytest

_Case = TypeVar("_Case")

_SHOWN = 10


def check_each(
    cases: Iterable[_Case], check: Callable[[_Case], object], name: Callable[[_Case], str] = str
) -> None:
    """Call `check` with each of `cases`; fail with the names of those for which it raises.

    A table without any case fails too: it would show nothing.
    """
    total, failures = 0, list[str]()
    for case in cases:
        total += 1
        try:
            check(case)
        except (Exception, pytest.fail.Exception) as error:  # noqa: BLE001 (every failure counts)
            failures.append(f"{name(case)}: {_said(error)}")
    assert total, "there are no cases"
    if failures:
        head = f"{len(failures)} of {total} cases fail"
        left_out = [f"... and {len(failures) - _SHOWN} more"] if len(failures) > _SHOWN else []
        pytest.fail("\n".join([head, *failures[:_SHOWN], *left_out]), pytrace=False)


def _said(error: BaseException) -> str:
    """Return the error, and the line of the check that raised it."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename != __file__]
    place = f" (line {frames[0].lineno}: {frames[0].line})" if frames else ""
    return f"{type(error).__name__}: {error}{place}"
