"""The progress bar: on a terminal, and only there."""

import io
from typing import cast

from rich.console import Console

from tagalong.cli.progress import migration_bar, save_bar

ACTIVE = {
    "status": "active",
    "ram": {"total": 100 << 20, "remaining": 25 << 20, "dirty-sync-count": 2, "mbps": 800.4},
}


def test_migration_bar_without_terminal_prints_nothing() -> None:
    output = io.StringIO()

    with migration_bar(Console(file=output)) as show:
        show(ACTIVE)

    assert output.getvalue() == ""


def test_migration_bar_on_a_terminal_shows_round_and_amount() -> None:
    output = io.StringIO()

    with migration_bar(Console(file=output, force_terminal=True, width=100)) as show:
        show({"status": "setup"})
        show(ACTIVE)

    assert "round 2" in output.getvalue()
    assert "75.0/100.0 MiB" in output.getvalue()
    assert "100 MB/s" in output.getvalue()


def test_migration_bar_before_the_first_round_does_not_look_finished() -> None:
    output = io.StringIO()
    ram = {"total": 100 << 20, "remaining": 0, "dirty-sync-count": 0, "mbps": 0.0}

    with migration_bar(Console(file=output, force_terminal=True, width=100)) as show:
        show({"status": "active", "ram": ram})

    assert "100.0/100.0 MiB" not in output.getvalue()


def test_migration_bar_is_gone_after_the_last_answer() -> None:
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=100)

    with migration_bar(console) as show:
        show(ACTIVE)
        show({"status": "completed"})
        length = len(output.getvalue())
        console.print("next")

    assert output.getvalue()[length:] == "next\n"


def test_migration_bar_shows_what_the_guest_does_and_what_it_would_cost() -> None:
    output = io.StringIO()
    ram = {**cast("dict[str, object]", ACTIVE["ram"]), "dirty-pages-rate": 1000, "page-size": 4096}
    info = {**ACTIVE, "ram": ram, "expected-downtime": 42, "cpu-throttle-percentage": 30}

    with migration_bar(Console(file=output, force_terminal=True, width=80)) as show:
        show(info)

    line = "100 MB/s, guest 4 MB/s, downtime 42 ms, slowed 30 %"
    assert "round 2" in output.getvalue()
    assert "75.0/100.0 MiB" in output.getvalue()
    assert line in output.getvalue()


def test_save_bar_on_a_terminal_shows_stage_round_and_amount() -> None:
    output = io.StringIO()
    answer = {"status": "active", "total": 4 << 20, "completed": 1 << 20, "x-stage": "copying"}

    with save_bar(Console(file=output, force_terminal=True, width=100)) as show:
        show({**answer, "x-round": 2})
        show({"status": "completed"})

    assert "copying, round 2" in output.getvalue()
    assert "1.0/4.0 MiB" in output.getvalue()
