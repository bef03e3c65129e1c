"""Compares the access strategies; every entry is found by running a strategy on a machine."""

from typing import TYPE_CHECKING

from tagalong._lazy import names_of

if TYPE_CHECKING:
    from tagalong.studies.comparison.comparing import ComparisonOptions, compare
    from tagalong.studies.comparison.report import (
        CONTROL,
        ComparisonReport,
        Looks,
        Operation,
        RaceResult,
        StrategyReport,
        SystemCalls,
    )
else:
    __getattr__, __dir__ = names_of(
        __name__,
        {
            "tagalong.studies.comparison.comparing": ("ComparisonOptions", "compare"),
            "tagalong.studies.comparison.report": (
                "CONTROL",
                "ComparisonReport",
                "Looks",
                "Operation",
                "RaceResult",
                "StrategyReport",
                "SystemCalls",
            ),
        },
    )

__all__ = [
    "CONTROL",
    "ComparisonOptions",
    "ComparisonReport",
    "Looks",
    "Operation",
    "RaceResult",
    "StrategyReport",
    "SystemCalls",
    "compare",
]
