"""The report of a snapshot or a dump, to the letter."""

from dataclasses import replace

from tagalong.cli.save_text import save_report
from tagalong.machine import AccessChoice
from tagalong.qapi.reports import SaveResult
from tests.support.results import save_result

SNAPSHOT = replace(save_result().report, converged=True, unreadable_tables=0)


def test_save_report_of_a_live_snapshot() -> None:
    assert save_report(SaveResult(SNAPSHOT)) == (
        "/tmp/vm.core is complete.\n"
        "\n"
        "  memory      1.0 MiB of RAM, by guest physical address\n"
        "  file        5.9 KiB, of which 5.4 KiB on disk\n"
        "  time        500.0 ms\n"
        "  downtime    7.0 ms after 2 rounds while it ran"
    )


def test_save_report_of_a_guest_that_did_not_converge_says_why_it_was_stopped() -> None:
    text = save_report(SaveResult(replace(SNAPSHOT, converged=False, rounds=2)))

    assert (
        "  downtime    7.0 ms after 1 round while it ran; it changes memory faster than\n"
        "              it can be written" in text
    )


def test_save_report_of_a_dump_by_virtual_addresses() -> None:
    report = replace(SNAPSHOT, space="kernel", segments=1, was_running=False, unreadable_tables=2)

    text = save_report(SaveResult(report, AccessChoice("sp", "asked for")))

    assert "  memory      1.0 MiB of RAM, as its kernel addresses map it: 1 piece\n" in text
    assert "  downtime    the guest did not run\n" in text
    assert "  access      sp (asked for)\n" in text
    assert text.endswith("  missing     memory mapped by 2 translation tables outside of RAM")
