"""Granules drawn in a terminal, sixteen a row, with a pointer and blocks drawn in."""

from collections.abc import Iterator

from rich.style import Style
from rich.text import Text

from tagalong.cli.tag_colors import tag_style
from tagalong.cli.units import wrapped
from tagalong.explain.crash import UNKNOWN_TAG
from tagalong.mte import GRANULE_BYTES, TAG_BITS
from tagalong.views.granules import GranuleWindow, MarkedBlock

_NO_TAG = "-"


def granule_report(window: GranuleWindow) -> Iterator[Text]:
    """Yield a line per row of granules, a line below it where blocks lie, then the legend.

    Rows that repeat the one above are left out, and a line with * says so.
    """
    digits = window.tag_bits // TAG_BITS
    per_row = 16 // digits
    width = len(f"{window.end:#x}")
    before: object = None
    is_folded = False
    for first in range(0, len(window.tags), per_row):
        row = window.tags[first : first + per_row].tolist()
        marks = _marks(window, first, len(row), digits)
        has_pointer = window.pointer_granule in range(first, first + len(row))
        if (row, marks) == before and not has_pointer:
            if not is_folded:
                yield Text("   *")
            is_folded = True
            continue
        is_folded = False
        before = None if has_pointer else (row, marks)
        yield _row(window, first, row, width)
        if marks.strip():
            yield Text(" " * (width + 4) + marks.rstrip())
    yield from _legend(window)


def _row(window: GranuleWindow, first: int, row: list[int], width: int) -> Text:
    digits = window.tag_bits // TAG_BITS
    pointer = window.pointer_granule
    arrow = "=>" if pointer in range(first, first + len(row)) else "  "
    line = Text(f"{arrow} {window.start + first * GRANULE_BYTES:#{width}x} ")
    for number, tag in enumerate(row, first):
        word = _NO_TAG * digits if tag == UNKNOWN_TAG else f"{tag:0{digits}x}"
        style = Style() if tag == UNKNOWN_TAG else tag_style(tag)
        if number == pointer:
            line.append(f"[{word}]", style + Style(bold=True, underline=True))
        else:
            line.append(f" {word} ", style)
    return line


def _marks(window: GranuleWindow, first: int, count: int, digits: int) -> str:
    """Return what stands below a row: each block as its letter and a bar."""
    cell = digits + 2
    line = [" "] * (count * cell)
    for block in window.blocks:
        low, high = _cells(window, block)
        for number in range(max(low, first), min(high, first + count)):
            at = (number - first) * cell
            line[at : at + cell] = "=" * cell
            if number == low:
                line[at] = block.letter
            if number == high - 1:
                line[at + cell - 1] = block.letter
    return "".join(line)


def _cells(window: GranuleWindow, block: MarkedBlock) -> tuple[int, int]:
    """Return the numbers of the granules that a block touches, as [first, stop)."""
    low = (block.start - window.start) // GRANULE_BYTES
    return low, max(-(-(block.end - window.start) // GRANULE_BYTES), low + 1)


def _legend(window: GranuleWindow) -> Iterator[Text]:
    if window.pointer is not None and window.pointer_granule is not None:
        yield _legend_line("[ ]", f"{window.pointer:#x}: {window.pointer_text}")
    for block in window.blocks:
        yield _legend_line(block.letter, block.text)


def _legend_line(mark: str, text: str) -> Text:
    return Text(wrapped(text, f"   {mark:3} ", " " * 7))
