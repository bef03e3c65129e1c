"""The comparison of the access strategies: every entry found by running it on a machine."""

from tagalong.studies.comparison.compare import Options, compare
from tagalong.studies.comparison.report import (
    CONTROL,
    Looks,
    Operation,
    RaceResult,
    Report,
    StrategyReport,
    SystemCalls,
)

__all__ = [
    "CONTROL",
    "Looks",
    "Operation",
    "Options",
    "RaceResult",
    "Report",
    "StrategyReport",
    "SystemCalls",
    "compare",
]
