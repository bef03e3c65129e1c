"""A pytest plugin, inside the lab: prints each report as a line of JSON after a mark.

The mark is ASCII's record separator, as in RFC 7464: whatever else is printed stays apart.
"""

import json
import sys

import pytest

MARK = "\x1e"


class _Reporter:
    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        hook = self._config.hook
        data = hook.pytest_report_to_serializable(config=self._config, report=report)
        sys.stdout.write(f"\n{MARK}{json.dumps(data)}\n")
        sys.stdout.flush()


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(_Reporter(config), "lab-reporter")
