"""Runs tests inside the lab and reports each of them here, by name.

`inside.txt` is collected as if it were a file of tests: below it is a collector per
kernel (TAGALONG_LAB_KERNELS, separated by blanks), and below that an item for each test that
runs inside. Each kernel is booted once, with all items that were selected, so that the lab is at
work while the tests of the host are. Where one process runs all tests, the first kernel is booted
as soon as they are collected, and its items come last. Where several do (`make test`), the items
come first: one process gets them all and waits for the lab while the others run the host's tests.
Other kernels are booted at their first item. Reports come back while the tests run. If the machine
is lost, its remaining tests have neither passed nor failed: they are errors.
"""

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.support.lab_session import KERNELS, LabSession, collect, why_not

# The samples fail on purpose: test_tier.py runs them.
collect_ignore: list[str] = []
if {"TAGALONG_LAB_SAMPLES", "TAGALONG_INSIDE_LAB"}.isdisjoint(os.environ):
    collect_ignore += ["samples"]
# They boot the lab several times, or Linux guests in it, which takes minutes: `make kernels` and
# `make pages` run these.
if "TAGALONG_LONG" not in os.environ:
    collect_ignore += [
        "test_guest_networks.py",
        "test_linux_seam.py",
        "test_looking.py",
        "test_many_vcpus.py",
        "test_pages.py",
    ]

_sessions: dict[str, LabSession] = {}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    reason = why_not()
    if reason is not None and "TAGALONG_INSIDE_LAB" not in os.environ:
        for item in items:
            if item.path.is_relative_to(Path(__file__).parent):
                item.add_marker(pytest.mark.skip(reason=reason))
    is_one_of_several = _is_worker(config)
    items.sort(key=lambda item: isinstance(item, LabItem) is not is_one_of_several)


def _is_worker(config: pytest.Config) -> bool:
    """Return whether this is one of several processes that share the tests (pytest-xdist)."""
    return hasattr(config, "workerinput")


def pytest_collection_finish(session: pytest.Session) -> None:
    if _is_worker(session.config):
        return
    first = next((item for item in session.items if isinstance(item, LabItem)), None)
    if first and not session.config.option.collectonly and not first.get_closest_marker("skip"):
        _session(first)


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    if file_path.name == "inside.txt" and "TAGALONG_INSIDE_LAB" not in os.environ:
        return Inside.from_parent(parent, path=file_path)
    return None


class Inside(pytest.File):
    """All that runs inside the lab."""

    def collect(self) -> Iterator[pytest.Collector]:
        lines = self.path.read_text().splitlines()
        suites = tuple(line for line in lines if line and not line.startswith("#"))
        for kernel in KERNELS:
            yield Kernel.from_parent(self, name=f"linux-{kernel}", kernel=kernel, suites=suites)


class Kernel(pytest.Collector):
    """All that runs inside the lab on one kernel."""

    def __init__(self, *, kernel: str, suites: tuple[str, ...], **rest: object) -> None:
        super().__init__(**rest)  # type: ignore[arg-type]
        self.kernel = kernel
        self._suites = suites

    def collect(self) -> Iterator[pytest.Item]:
        for node_id in _ids(self._suites):
            yield LabItem.from_parent(self, name=node_id, kernel=self.kernel)


_ids = cache(collect)


class LabItem(pytest.Item):
    """One test inside the lab; its name is its node id there."""

    def __init__(self, *, kernel: str, **rest: object) -> None:
        super().__init__(**rest)  # type: ignore[arg-type]
        self.kernel = kernel

    def runtest(self) -> None:
        raise AssertionError("pytest_runtest_protocol takes the place of this")

    def reportinfo(self) -> tuple[Path, int | None, str]:
        return self.path, None, f"{self.name} on linux-{self.kernel}"


def _session(item: LabItem) -> LabSession:
    if item.kernel not in _sessions:
        chosen = [other.name for other in item.session.items
                  if isinstance(other, LabItem) and other.kernel == item.kernel]  # fmt: skip
        _sessions[item.kernel] = LabSession(item.kernel, chosen)
    return _sessions[item.kernel]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> bool | None:
    if not isinstance(item, LabItem) or item.get_closest_marker("skip"):
        return None
    hook = item.ihook
    hook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for report in _reports(item):
        hook.pytest_runtest_logreport(report=report)
    hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def _reports(item: LabItem) -> Iterator[pytest.TestReport]:
    session, last = _session(item), None
    for data in session.reports_of(item.name):
        report = item.config.hook.pytest_report_from_serializable(config=item.config, data=data)
        report.nodeid, report.location = item.nodeid, item.location
        if isinstance(report.longrepr, list):  # where and why of a skip; JSON has no tuples
            report.longrepr = tuple(report.longrepr)
        last = report.when
        yield report
    if last != "teardown":
        yield _error(item, session.how_it_ended())


def _error(item: LabItem, message: str) -> pytest.TestReport:
    """Return what pytest shows as an error: something before the test itself went wrong."""
    return pytest.TestReport(
        item.nodeid, item.location, {}, "failed", f"no result from the lab: {message}", "setup"
    )
