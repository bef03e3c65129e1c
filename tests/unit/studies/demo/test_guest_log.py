"""Reading what the guest says."""

import asyncio

import pytest

from tagalong.studies.demo.guest_log import GuestLog, ReportedProgress, parse_progress
from tagalong.studies.demo.report import GuestProgress


def line(vcpu: int, ops: int, faults: int = 0) -> str:
    return f"churn: progress vcpu={vcpu} ops={ops} blocks=3 retags=2 faults={faults}\n"


def test_parse_progress_reads_all_counters() -> None:
    text = "churn: progress vcpu=1 ops=4096 blocks=300 retags=120 faults=64\n"

    assert parse_progress(text) == ReportedProgress(1, 4096, 64)


def test_parse_progress_of_tagkeeper_is_one_reporter() -> None:
    text = (
        "tagkeeper: progress seconds=3 checked=3215360 changed=2996 faults=6 signals=9 children=0 "
        "longest_gap_ms=1000\r\n"
    )

    assert parse_progress(text) == ReportedProgress(0, 3215360, 6)


@pytest.mark.parametrize(
    "text",
    ["", "churn: start", "churn: progress vcpu=1 ops=", "x churn: progress vcpu=1 ops=1", "FAIL"],
)
def test_parse_progress_other_line_is_none(text: str) -> None:
    assert parse_progress(text) is None


def test_log_sums_the_last_report_of_every_vcpu() -> None:
    log = GuestLog()

    for text in (line(0, 10, 1), line(1, 5, 1), "noise\n", line(0, 30, 4)):
        log.add(text)

    assert log.progress() == GuestProgress(operations=35, faults=5)
    assert (log.reports(2), log.reports(1), log.reports(3)) == (1, 2, 0)
    assert log.failures == []


def test_log_keeps_failures_as_they_were_said() -> None:
    log = GuestLog()

    log.add("churn: FAIL vcpu=0 tag of block 7 is 0, expected 5\n")
    log.add("churn: FAILURES are bad\n")

    assert log.failures == ["churn: FAIL vcpu=0 tag of block 7 is 0, expected 5"]


def test_log_keeps_failures_of_tagkeeper() -> None:
    log = GuestLog()

    log.add("tagkeeper: FAIL thread=0 granule=0x1 x: expected 0x5 got 0; 9 of 9 tags are wrong\r\n")

    assert log.failures == [
        "tagkeeper: FAIL thread=0 granule=0x1 x: expected 0x5 got 0; 9 of 9 tags are wrong"
    ]


def test_wait_until_returns_when_the_condition_holds() -> None:
    async def run() -> None:
        log = GuestLog()
        waiting = asyncio.create_task(log.wait_until(lambda seen: seen.reports(1) == 2))
        log.add(line(0, 1))
        await asyncio.sleep(0)
        assert not waiting.done()
        log.add(line(0, 2))
        await asyncio.wait_for(waiting, 60)

    asyncio.run(run())


def test_wait_until_returns_at_the_end_of_the_output() -> None:
    async def run() -> None:
        log = GuestLog()
        waiting = asyncio.create_task(log.wait_until(lambda _: False))
        await asyncio.sleep(0)
        log.end()
        await asyncio.wait_for(waiting, 60)
        assert log.ended

    asyncio.run(run())
