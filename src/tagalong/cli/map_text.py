"""A map of tags in a terminal: what regions there are, and a character per cell."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from rich.style import Style
from rich.text import Text

from tagalong.cli.tag_colors import tag_style
from tagalong.cli.units import count, row, size
from tagalong.core import WrittenFile
from tagalong.core.regions import CoreRegion
from tagalong.mte import GRANULE_BYTES
from tagalong.printable import one_line
from tagalong.views.survey import CellRow, RegionSurvey

MIXED_CELL = "#"
SPARSE_CELL = "+"
ZERO_CELL = "."
NO_TAGS_CELL = "-"

LEGEND = (
    f"  {ZERO_CELL} tag 0   1-f that tag   {SPARSE_CELL} more than half 0   "
    f"{MIXED_CELL} several tags   {NO_TAGS_CELL} no tags"
)

_LONGEST_SHORT_ADDRESS = 14
_CELLS_A_LINE = 64


def cells_a_line(end: int) -> int:
    """Return how many cells fit beside addresses up to `end` in 80 columns."""
    fits = len(f"{end:#x}") <= _LONGEST_SHORT_ADDRESS
    return _CELLS_A_LINE if fits else _CELLS_A_LINE // 2


def summary_lines(name: str, surveys: Sequence[RegionSurvey], *, is_cut: bool) -> Iterator[str]:
    """Yield how much memory there is, how much has tags, and how often each occurs.

    `is_cut`: the file was cut short.
    """
    tagged = [each.region.size_bytes for each in surveys if each.counts is not None]
    plain = [each.region.size_bytes for each in surveys if each.counts is None]
    yield one_line(name)
    if is_cut:
        yield row("cut short", "the file has not all that its headers name; it is left out here")
    yield row("tagged", f"{size(sum(tagged))} in {count(len(tagged), 'region')}")
    if plain:
        yield row("without", f"{size(sum(plain))} in {count(len(plain), 'region')} without tags")
    if tagged:
        counts = [each.counts for each in surveys if each.counts is not None]
        yield row("granules", _census(np.sum(counts, axis=0)))


def _census(counts: NDArray[np.int64]) -> str:
    """Return how many granules carry a tag, and how often each tag occurs."""
    total, carrying = int(counts.sum()), int(counts[1:].sum())
    share = 100 * carrying / total if total else 0.0
    each = ", ".join(f"{tag:x}: {n:,}" for tag, n in enumerate(counts.tolist()) if tag and n)
    head = f"{carrying:,} of {total:,} carry a tag other than 0 ({share:.1f} %)"
    return f"{head}; {each}" if each else head


def region_line(survey: RegionSurvey, cell_bytes: int) -> str:
    """Return the line above a region's cells."""
    region = survey.region
    planes = "data and tags" if region.has_data else "tags, no data"
    return (
        f"[{region.address:#x}, {region.end:#x})  {size(region.size_bytes)}  {planes}, "
        f"{cell_text(cell_bytes)} a character"
    )


def cell_text(cell_bytes: int) -> str:
    """Return the size of a cell in words."""
    return "one granule" if cell_bytes == GRANULE_BYTES else size(cell_bytes)


def cell_lines(cells: CellRow) -> Iterator[Text]:
    """Yield the cells as characters, each line with the address that it begins at."""
    per_line = cells_a_line(cells.end)
    width = len(f"{cells.end:#x}")
    before, is_folded = None, False
    for first in range(0, len(cells), per_line):
        part = cells.counts[first : first + per_line]
        glyphs = [_glyph(each) for each in part]
        characters = "".join(character for character, _ in glyphs)
        if characters == before and len(set(characters)) == 1:
            if not is_folded:
                yield Text("  *")
            is_folded = True
            continue
        before, is_folded = characters, False
        line = Text(f"{cells.bounds(first)[0]:#{width}x}  ")
        for character, style in glyphs:
            line.append(character, style)
        yield line


def _glyph(counts: NDArray[np.int64]) -> tuple[str, Style]:
    total, top = int(counts.sum()), int(counts.argmax())
    if not total:
        return NO_TAGS_CELL, Style(dim=True)
    if int(counts[top]) == total:
        return (f"{top:x}" if top else ZERO_CELL), tag_style(top)
    # Where several tags occur the colour is that of the most frequent one that is not 0.
    style = tag_style(1 + int(counts[1:].argmax()))
    return (SPARSE_CELL if 2 * int(counts[0]) > total else MIXED_CELL), style


def map_json(name: str, surveys: Sequence[RegionSurvey]) -> Mapping[str, object]:
    """Return the regions for JSON; `granules` has the granules by tag, null without tags."""
    return {
        "file": name,
        "regions": [
            {
                **_region_json(each.region),
                "granules": None if each.counts is None else each.counts.tolist(),
            }
            for each in surveys
        ],
    }


def _region_json(region: CoreRegion) -> dict[str, object]:
    return {
        "start": hex(region.address),
        "end": hex(region.end),
        "size_bytes": region.size_bytes,
        "data": region.has_data,
        "tags": region.has_tags,
    }


def cells_json(name: str, cells: CellRow) -> Mapping[str, object]:
    """Return a range in cells for JSON: `cells` has the granules by tag of each."""
    return {
        "file": name,
        "start": hex(cells.start),
        "end": hex(cells.end),
        "cell_bytes": cells.cell_bytes,
        "cells": cells.counts.tolist(),
    }


def page_report(file: WrittenFile) -> str:
    """Return what was written, in words."""
    name = one_line(str(file.path))
    return f"{name} is complete: {size(file.size_bytes)}, to be opened in any browser"
