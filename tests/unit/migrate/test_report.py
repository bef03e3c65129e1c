"""The report: sums, and keys that programs rely on."""

import json

from tagalong.migrate import DowntimeParts, MigrationReport, RoundReport

ROUNDS = (
    RoundReport(1, 100, 409600, 204800, 12800, 500, 0.5, 7),
    RoundReport(2, 7, 28672, 28672, 896, 80, 0.01, 0),
)
REPORT = MigrationReport(
    migration_id="ab" * 16,
    ram_bytes=1 << 20,
    rounds=ROUNDS,
    downtime=DowntimeParts(0.001, 0.002, 0.0005, 0.003, 0.004, 0.005, 0.0025),
    duration_s=0.6,
    bytes_sent=234567,
    throughput_bytes_per_s=1e9,
    dirty_rate_bytes_per_s=5e6,
    was_running=True,
    tags_dropped=False,
    source_digest="11" * 16,
    destination_digest="11" * 16,
)


def test_report_to_json_has_the_stable_keys() -> None:
    written = json.loads(json.dumps(REPORT.to_json()))

    details = written.pop("round_details")
    parts = written.pop("downtime_parts_ms")
    assert written == {
        "migration_id": "ab" * 16,
        "verified": True,
        "source_digest": "11" * 16,
        "destination_digest": "11" * 16,
        "tags_dropped": False,
        "was_running": True,
        "one_way": False,
        "tags_in_place": False,
        "throttle_percent": 0,
        "rounds": 2,
        "ram_bytes": 1 << 20,
        "pages": 107,
        "data_bytes": 438272,
        "data_bytes_wire": 233472,
        "tag_bytes_raw": 13696,
        "tag_bytes_wire": 580,
        "bytes_sent": 234567,
        "throughput_bytes_per_s": 1e9,
        "dirty_rate_bytes_per_s": 5e6,
        "duration_ms": 600.0,
        "downtime_ms": 18.0,
    }
    assert parts == {
        "stop": 1.0,
        "last_pages": 2.0,
        "last_tags": 0.5,
        "state": 3.0,
        "digest": 4.0,
        "commit": 5.0,
        "start": 2.5,
    }
    assert details[1] == {
        "number": 2,
        "pages": 7,
        "data_bytes": 28672,
        "data_bytes_wire": 28672,
        "tag_bytes_raw": 896,
        "tag_bytes_wire": 80,
        "duration_ms": 10.0,
        "dirty_pages_left": 0,
    }


def test_report_is_verified_only_by_equal_digests() -> None:
    from dataclasses import replace  # noqa: PLC0415

    assert REPORT.verified
    assert not replace(REPORT, destination_digest="22" * 16).verified
    assert not replace(REPORT, source_digest=None, destination_digest=None).verified
