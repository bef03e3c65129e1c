"""The progress bar: on a terminal, and only there."""

import io
from dataclasses import replace

from rich.console import Console

from tagalong.cli.progress import MigrationRounds, migration_bar, save_bar
from tagalong.qapi.migration import MigrationInfo, MigrationStatus, RamInfo
from tagalong.qapi.saving import SaveInfo, SaveStatus

RAM = RamInfo(
    total_bytes=100 << 20,
    transferred_bytes=75 << 20,
    remaining_bytes=25 << 20,
    rounds=2,
    dirty_pages_per_s=0,
    megabits_per_s=800.4,
    page_size_bytes=4096,
    pages_per_s=0,
    pages_sent=0,
)
ACTIVE = MigrationInfo(MigrationStatus.ACTIVE, ram=RAM)


def test_migration_bar_without_terminal_prints_nothing() -> None:
    output = io.StringIO()

    with migration_bar(Console(file=output)) as show:
        show(ACTIVE)

    assert output.getvalue() == ""


def test_migration_bar_on_a_terminal_shows_round_and_amount() -> None:
    output = io.StringIO()

    with migration_bar(Console(file=output, force_terminal=True, width=100)) as show:
        show(MigrationInfo(MigrationStatus.SETUP))
        show(ACTIVE)
        show(replace(ACTIVE, ram=replace(RAM, remaining_bytes=10 << 20)))

    assert "round 2" in output.getvalue()
    assert "15.0/25.0 MiB" in output.getvalue()
    assert "100 MB/s" in output.getvalue()


def test_rounds_start_empty_and_never_shrink() -> None:
    rounds = MigrationRounds()
    moments = [(0, 0), (1, 0), (1, 64), (1, 48), (1, 16), (1, 0), (2, 0), (2, 8), (2, 2), (2, 0)]

    views = [
        rounds.view(replace(ACTIVE, ram=replace(RAM, rounds=number, remaining_bytes=left)))
        for number, left in moments
    ]

    assert rounds.view(MigrationInfo(MigrationStatus.ACTIVE)) is None
    assert [view and (view.title, view.done_bytes, view.total_bytes) for view in views] == [
        None, None, ("round 1", 0, 64), ("round 1", 16, 64), ("round 1", 48, 64),
        ("round 1", 64, 64), None, ("round 2", 0, 8), ("round 2", 6, 8), ("round 2", 8, 8),
    ]  # fmt: skip


def test_migration_bar_before_the_first_round_does_not_look_finished() -> None:
    output = io.StringIO()
    ram = replace(RAM, remaining_bytes=0, rounds=0, megabits_per_s=0.0)

    with migration_bar(Console(file=output, force_terminal=True, width=100)) as show:
        show(replace(ACTIVE, ram=ram))

    assert "100.0/100.0 MiB" not in output.getvalue()


def test_migration_bar_is_gone_after_the_last_answer() -> None:
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=100)

    with migration_bar(console) as show:
        show(ACTIVE)
        show(MigrationInfo(MigrationStatus.COMPLETED))
        length = len(output.getvalue())
        console.print("next")

    assert output.getvalue()[length:] == "next\n"


def test_migration_bar_shows_what_the_guest_does_and_what_it_would_cost() -> None:
    output = io.StringIO()
    ram = replace(RAM, dirty_pages_per_s=1000)
    info = replace(ACTIVE, ram=ram, expected_downtime_ms=42, throttle_percent=30)

    with migration_bar(Console(file=output, force_terminal=True, width=80)) as show:
        show(info)

    line = "100 MB/s, guest 4 MB/s, downtime 42 ms, slowed 30 %"
    assert "round 2" in output.getvalue()
    assert "0.0/25.0 MiB" in output.getvalue()
    assert line in output.getvalue()


def test_save_bar_on_a_terminal_shows_stage_round_and_amount() -> None:
    output = io.StringIO()
    info = SaveInfo(SaveStatus.ACTIVE, 1 << 20, 4 << 20, stage="copying", round_number=2)

    with save_bar(Console(file=output, force_terminal=True, width=100)) as show:
        show(info)
        show(SaveInfo(SaveStatus.COMPLETED))

    assert "copying, round 2" in output.getvalue()
    assert "1.0/4.0 MiB" in output.getvalue()
