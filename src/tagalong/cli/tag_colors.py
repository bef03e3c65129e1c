"""A colour per tag, the same in every view that a terminal shows.

What rich prints has no colours if standard output is no terminal, or with NO_COLOR. Then the
characters alone say everything.
"""

import sys
from collections.abc import Iterable
from typing import Final

from rich.console import Console
from rich.style import Style
from rich.text import Text

# Of the 256 colours of xterm; a tag's digit stands on it in black. Tag 0 has none.
_BACKGROUNDS: Final = (
    None, "#87afff", "#ffaf5f", "#87d787", "#ff87af", "#d7af87", "#5fd7d7", "#d787ff",
    "#d7d75f", "#ff875f", "#5fafd7", "#afd75f", "#af87d7", "#ffd787", "#87d7af", "#d7d7d7",
)  # fmt: skip


def tag_style(tag: int) -> Style:
    """Return how a tag is drawn; of an 8-bit tag the low nibble chooses."""
    background = _BACKGROUNDS[tag % len(_BACKGROUNDS)]
    return Style(dim=True) if background is None else Style(color="black", bgcolor=background)


def show(lines: Iterable[Text | str]) -> None:
    """Print lines on standard output, in colours if it is a terminal that has them."""
    console = Console(file=sys.stdout, highlight=False, markup=False, emoji=False)
    for line in lines:
        console.print(line, soft_wrap=True)
