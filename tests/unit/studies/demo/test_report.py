"""When a demo counts as a success, and what it reports."""

import dataclasses
import json

import pytest

from tagalong.studies.demo.report import DemoReport, GuestProgress

MIGRATION = {
    "verified": True,
    "rounds": 3,
    "downtime_ms": 7.25,
    "ram_bytes": 67108864,
    "data_bytes": 1000000,
    "tag_bytes_raw": 31250,
    "tag_bytes_wire": 900,
}

GOOD = DemoReport(
    tags_dropped=False,
    migration=MIGRATION,
    granules=4194304,
    tagged_granules=1234,
    before=GuestProgress(100, 10),
    after=GuestProgress(300, 30),
    failures=(),
)


def test_succeeded_guest_went_on_and_digests_equal() -> None:
    assert GOOD.succeeded


@pytest.mark.parametrize(
    "change",
    [
        {"failures": ("churn: FAIL vcpu=0",)},
        {"after": GuestProgress(100, 10)},
        {"migration": {**MIGRATION, "verified": False}},
    ],
)
def test_succeeded_anything_missing_is_no_success(change: dict[str, object]) -> None:
    assert not dataclasses.replace(GOOD, **change).succeeded  # type: ignore[arg-type]


def test_to_json_has_the_promised_keys() -> None:
    found = json.loads(json.dumps(GOOD.to_json()))

    expected = {
        **MIGRATION,
        "guest_progress_before": 100,
        "guest_progress_after": 300,
        "guest_failures": 0,
        "granules": 4194304,
        "tagged_granules": 1234,
        "succeeded": True,
    }
    assert {name: found[name] for name in expected} == expected


def test_to_json_failures_are_counted_and_quoted() -> None:
    report = dataclasses.replace(GOOD, failures=("churn: FAIL a", "churn: FAIL b"))

    found = report.to_json()

    assert found["guest_failures"] == 2
    assert found["guest_failure_lines"] == ["churn: FAIL a", "churn: FAIL b"]
