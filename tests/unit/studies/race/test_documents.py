"""The documents show what the commands print, and what the code says of the strategies."""

from pathlib import Path

import pytest

from tagalong.access import STRATEGIES
from tagalong.cli.app import invoke

ROOT = Path(__file__).parents[4]
DOCUMENTS = (ROOT / "docs" / "guide" / "race.md", ROOT / "docs" / "design" / "access.md")
PROMPT = "$ tagalong "


def examples(document: Path) -> list[tuple[str, str]]:
    """Return each `tagalong race` command that a document shows, with the output there."""
    blocks = document.read_text().split("```console\n" + PROMPT + "race ")[1:]
    shown = (block.split("```")[0].partition("\n") for block in blocks)
    return [(f"race {arguments}", output) for arguments, _, output in shown]


EXAMPLES = [(d.name, *example) for d in DOCUMENTS for example in examples(d)]


@pytest.mark.parametrize(
    ("document", "arguments", "output"), EXAMPLES, ids=[f"{d}: {a}" for d, a, _ in EXAMPLES]
)
def test_document_shows_what_the_command_prints(
    document: str,
    arguments: str,
    output: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)

    assert invoke(arguments.split()) == 0

    assert capsys.readouterr().out == output, document


def test_documents_have_examples() -> None:
    assert {name for name, _, _ in EXAMPLES} == {"race.md", "access.md"}


def test_table_of_needs_and_hazards_is_what_the_strategies_say() -> None:
    text = DOCUMENTS[1].read_text().split("## What each needs")[1]
    rows = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("| `")]

    shown = [tuple(cell.strip() for cell in (row[0], *row[2:])) for row in rows]

    assert shown == [
        (
            f"`{name}`",
            ", ".join(sorted(need.name.lower() for need in strategy.needs)),
            ", ".join(sorted(hazard.name.lower() for hazard in strategy.hazards)),
        )
        for name, strategy in STRATEGIES.items()
    ]


def test_order_of_preference_is_the_one_that_the_document_gives() -> None:
    names = ", ".join(f"`{name}`" for name in STRATEGIES)

    text = " ".join(DOCUMENTS[1].read_text().split())
    assert f"takes the first that the host can do of: {names};" in text
