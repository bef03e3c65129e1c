"""Every command that README, the guides and the help texts show does what is said there.

Commands marked slow run with TAGALONG_SLOW_EXAMPLES=1 (`make examples`).
"""

import importlib
import os
import re
import shlex
from itertools import groupby
from pathlib import Path

import click
import pytest

from tagalong.cli import app
from tests.support.page_commands import (
    ROOT,
    Command,
    commands_of,
    reader,
    unmarked_commands,
)

PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs" / "guide").glob("*.md")),
    ROOT / "docs" / "design" / "access.md",
]
RUNS_SLOW = "TAGALONG_SLOW_EXAMPLES" in os.environ

_EPILOG_LINE = re.compile(r"^\s+(tagalong .+)$", re.MULTILINE)


def runs(command: Command) -> bool:
    return not command.mark or (command.mark == "slow" and RUNS_SLOW)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_of_a_page_do_what_it_says(page: Path, tmp_path: Path) -> None:
    commands = [command for command in commands_of(page) if runs(command)]

    with reader(tmp_path) as someone:
        for command in commands:
            someone.run(command)


def test_no_command_hides_in_a_fence_without_a_kind() -> None:
    hidden = {page.name: lines for page in PAGES if (lines := unmarked_commands(page))}

    assert hidden == {}


def test_commands_that_are_not_run_are_at_least_commands() -> None:
    """Options that no longer exist are found in these, too."""
    for page in PAGES:
        for command in commands_of(page):
            assert_parses(command.text.removesuffix("&"), str(command))


def test_examples_of_every_help_text_are_commands() -> None:
    names = [*app._COMMANDS]
    texts = {"tagalong": app._EPILOG}
    for name in names:
        command = importlib.import_module(f"tagalong.cli.{name}").command
        texts[name] = command.epilog or ""
        if isinstance(command, click.Group):
            texts |= {f"{name} {n}": c.epilog or "" for n, c in command.commands.items()}
    lines = [(name, line) for name, text in texts.items() for line in _EPILOG_LINE.findall(text)]

    assert {name.split()[0] for name, _ in lines} >= {*names, "tagalong"}
    for name, line in lines:
        assert_parses(line, name)


def test_sequence_of_the_main_help_text_works(tmp_path: Path) -> None:
    lines = _EPILOG_LINE.findall(app._EPILOG)
    assert lines[0] == "tagalong demo"  # tests/demo has it in every run
    chosen = lines if RUNS_SLOW else lines[1:]
    commands = [Command("--help", number, line.strip()) for number, line in enumerate(chosen)]

    with reader(tmp_path) as someone:
        for command in commands:
            someone.run(command)


def assert_parses(line: str, where: str) -> None:
    """Parse each command of ours in a line, without running it."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    for is_mark, group in groupby(lexer, key=lambda word: set(word) <= set("();<>|&")):
        words = [*group]
        if not is_mark and words[0] == "tagalong" and len(words) > 1:
            parse(words[1:], where)


def parse(words: list[str], where: str) -> None:
    command: click.Command = app.tagalong
    context = click.Context(command, info_name="tagalong")
    try:
        while isinstance(command, click.Group) and words and not words[0].startswith("-"):
            _, found, words = command.resolve_command(context, words)
            assert found is not None, where
            command = found
        if not isinstance(command, click.Group):
            command.make_context("tagalong", [*words], resilient_parsing=False)
    except click.exceptions.Exit:
        pass
    except click.UsageError as error:
        raise AssertionError(f"{where}: {' '.join(words)}: {error.format_message()}") from error
