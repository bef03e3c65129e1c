"""Compares the access strategies; every entry is found by running a strategy on a machine."""

from tagalong.studies.comparison.compare import ComparisonOptions, compare
from tagalong.studies.comparison.report import (
    CONTROL,
    ComparisonReport,
    Looks,
    Operation,
    RaceResult,
    StrategyReport,
    SystemCalls,
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
