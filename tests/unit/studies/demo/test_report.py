"""When a demo counts as a success, and what it reports."""

import dataclasses
import json

import pytest

from tagalong.studies.demo.report import GuestProgress
from tests.support.demo_report import DEMO, MIGRATION


def test_succeeded_guest_went_on_and_digests_equal() -> None:
    assert DEMO.succeeded


@pytest.mark.parametrize(
    "change",
    [
        {"failures": ("churn: FAIL vcpu=0",)},
        {"after": GuestProgress(120000, 900)},
        {"migration": dataclasses.replace(MIGRATION, source_digest=None)},
    ],
)
def test_succeeded_anything_missing_is_no_success(change: dict[str, object]) -> None:
    assert not dataclasses.replace(DEMO, **change).succeeded  # type: ignore[arg-type]


def test_to_json_has_the_promised_keys() -> None:
    found = json.loads(json.dumps(DEMO.to_json()))

    expected = {
        "verified": True,
        "rounds": 3,
        "ram_bytes": 64 << 20,
        "tag_bytes_wire": 3000,
        "guest_progress_before": 120000,
        "guest_progress_after": 190000,
        "guest_failures": 0,
        "granules": 4194304,
        "tagged_granules": 81234,
        "succeeded": True,
    }
    assert {name: found[name] for name in expected} == expected


def test_to_json_failures_are_counted_and_quoted() -> None:
    report = dataclasses.replace(DEMO, failures=("churn: FAIL a", "churn: FAIL b"))

    found = report.to_json()

    assert found["guest_failures"] == 2
    assert found["guest_failure_lines"] == ["churn: FAIL a", "churn: FAIL b"]
