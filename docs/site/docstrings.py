"""Docstrings as markdown: what they write as aligned text or as a session becomes a block.

The project's docstrings are prose. Two things in them are no markdown: examples, which begin
with `>>>`, and lists of aligned pairs, as in the docstrings of packages. Both are fenced.
"""

import re
from collections.abc import Iterator
from itertools import groupby
from typing import Any

import griffe

_SESSION = re.compile(r"^\s*(>>>|\.\.\. )")
_PAIRS = re.compile(r"^\s*\S+( \S+)? {2,}\S")


class FencedBlocks(griffe.Extension):
    """Fences what a docstring has in columns."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of every object that has one."""
        if not obj.is_alias and obj.docstring is not None:
            obj.docstring.value = fenced(obj.docstring.value)


def fenced(text: str) -> str:
    """Return a docstring with its sessions and its columns in fences.

    A session reaches to the next blank line, since what an example prints belongs to it.
    """
    return "\n\n".join(_paragraph(part) for part in re.split(r"\n\s*\n", text))


def _paragraph(text: str) -> str:
    lines = text.splitlines()
    if any(map(_SESSION.match, lines)):
        return "\n".join(("```pycon", *lines, "```"))
    return "\n".join(_with_columns(lines))


def _with_columns(lines: list[str]) -> Iterator[str]:
    for in_columns, group in groupby(lines, key=lambda line: bool(_PAIRS.match(line))):
        if in_columns:
            yield from ("", "```text", *group, "```", "")
        else:
            yield from group
