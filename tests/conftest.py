"""Tiers: each folder under tests/ is one, and a run can insist on having seen it.

TAGALONG_EXPECTED_TIERS (names, separated by blanks) makes the run fail if a tier of that
name had no test that passed, or had one that was skipped: a missing tool must not look like
a pass.
"""

import os
from collections import Counter
from pathlib import Path

import pytest

# Threads for linear algebra would start with numpy in each process of the tests.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

_TESTS = Path(__file__).parent
_EXPECTED = os.environ.get("TAGALONG_EXPECTED_TIERS", "").split()

_passed: Counter[str] = Counter()
_skipped: Counter[str] = Counter()


def _tier(node_id: str) -> str:
    parts = Path(node_id.split("::", maxsplit=1)[0]).parts
    return parts[1] if len(parts) > 2 and parts[0] == _TESTS.name else ""


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped:
        _skipped[_tier(report.nodeid)] += 1
    elif report.passed and report.when == "call":
        _passed[_tier(report.nodeid)] += 1


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave to tests/lab what can only run inside the lab."""
    if "TAGALONG_INSIDE_LAB" in os.environ:
        return
    elsewhere = [item for item in items if item.get_closest_marker("lab")]
    if elsewhere:
        config.hook.pytest_deselected(items=elsewhere)
        items[:] = [item for item in items if item not in elsewhere]


def _complaints() -> list[str]:
    missing = [f"tier {tier!r} ran no test" for tier in _EXPECTED if not _passed[tier]]
    skips = [
        f"tier {tier!r} skipped {_skipped[tier]} tests" for tier in _EXPECTED if _skipped[tier]
    ]
    return missing + skips


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for complaint in _complaints():
        terminalreporter.write_line(f"TAGALONG_EXPECTED_TIERS: {complaint}", red=True)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workerinput"):
        return  # this process has seen some of the reports; the one that has all judges
    if _complaints() and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
