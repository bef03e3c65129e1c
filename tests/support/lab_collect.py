"""A pytest plugin, on the host: prints the node ids of the tests that run inside the lab.

    python -m pytest -p tests.support.lab_collect --collect-only PATHS...

Of the files named in TAGALONG_LAB_SUITES (folders, separated by blanks) that is every test,
of others those with the marker "lab".
"""

import json
import os

import pytest

MARK = "\x1e"


def pytest_collection_finish(session: pytest.Session) -> None:
    suites = tuple(f"{suite}/" for suite in os.environ["TAGALONG_LAB_SUITES"].split())
    ids = [
        item.nodeid
        for item in session.items
        if item.nodeid.startswith(suites) or item.get_closest_marker("lab")
    ]
    print(f"{MARK}{json.dumps(ids)}", flush=True)
