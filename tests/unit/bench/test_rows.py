"""The rows of the table of speed: what they judge, and what is printed of them."""

import json

from rich.console import Console

from bench.goals import GOALS
from bench.rows import Figure, Row, as_json, as_markdown, as_table, not_measured, value_text
from bench.sources import SOURCES

REACHED = Figure("bbr", 1.6, at_least=1.5)
MISSED = Figure("cubic", 1.4, at_least=1.5)
EXPLAINS = Figure("our rate", 4.02, "GB/s")


def test_figure_at_its_bound_is_reached() -> None:
    assert Figure("x", 1.5, at_least=1.5).reached
    assert Figure("x", 1.5, at_most=1.5).reached


def test_figure_beyond_either_bound_is_not_reached() -> None:
    assert MISSED.reached is False
    assert Figure("x", 5.1, "ms", at_most=5).reached is False


def test_figure_without_a_bound_is_not_judged() -> None:
    assert EXPLAINS.reached is None


def test_row_is_reached_if_all_judged_figures_are() -> None:
    assert Row(1, (REACHED, EXPLAINS), "").reached is True
    assert Row(1, (REACHED, MISSED), "").reached is False
    assert Row(1, (EXPLAINS,), "").reached is None


def test_row_with_a_problem_is_never_reached() -> None:
    assert Row(1, (REACHED,), "", "no QEMU").reached is None
    assert Row(1, (REACHED, MISSED), "", "no QEMU").reached is False
    assert not_measured(1, "no QEMU").reached is None


def test_value_text_keeps_three_digits() -> None:
    values = (0.0123, 1.204, 12.34, 15432.1, 5.0)

    assert [value_text(value) for value in values] == ["0.0123", "1.20", "12.3", "15,432", "5"]


def test_json_of_rows_has_all_that_a_program_needs() -> None:
    first, second = json.loads(as_json([Row(1, (REACHED,), "in turn"), not_measured(6, "why")]))

    assert first == {
        "number": 1,
        "what": GOALS[1].what,
        "figures": [{"name": "bbr", "value": 1.6, "unit": "", "at_least": 1.5}],
        "wanted": GOALS[1].wanted,
        "reached": True,
        "how": "in turn",
        "problem": "",
    }
    assert (second["figures"], second["reached"], second["problem"]) == ([], None, "why")


def test_markdown_of_rows_is_one_line_each() -> None:
    text = as_markdown([Row(1, (REACHED, EXPLAINS), "a | b"), not_measured(6, "why")])

    _, _, first, second = text.splitlines()
    assert first == (
        f"| 1 | {GOALS[1].what} | bbr: 1.60; our rate: 4.02 GB/s | {GOALS[1].wanted} | yes | "
        r"a \| b |"
    )
    assert second == f"| 6 | {GOALS[6].what} | not measured: why | {GOALS[6].wanted} | - |  |"


def test_table_of_rows_fits_into_80_columns() -> None:
    console = Console(width=80, record=True, quiet=False, file=None)
    with console.capture() as captured:
        console.print(as_table([Row(number, (REACHED, MISSED), "") for number in GOALS]))

    assert max(len(line) for line in captured.get().splitlines()) <= 80
    assert "cubic: 1.40" in captured.get()


def test_sources_measure_each_goal_once() -> None:
    numbers = [number for source in SOURCES for number in source.numbers]

    assert sorted(numbers) == list(GOALS)
