"""`tagalong map`: draws the tags of a core."""

import json
from collections.abc import Iterator
from pathlib import Path

import click
from rich.text import Text

from tagalong.cli.granule_text import granule_report
from tagalong.cli.map_text import (
    LEGEND,
    cell_lines,
    cells_a_line,
    cells_json,
    map_json,
    page_report,
    region_line,
    summary_lines,
)
from tagalong.cli.tag_colors import show
from tagalong.cli.units import count
from tagalong.cli.values import FILE, address_range
from tagalong.core import Core, open_any_core
from tagalong.core.tag_runs import tag_range
from tagalong.errors import UsageError
from tagalong.mte.pointers import address_of
from tagalong.views.granules import granules_around, granules_of_range
from tagalong.views.page.document import write_page
from tagalong.views.page.map_page import map_page
from tagalong.views.survey import (
    cell_size,
    count_cells,
    drawn_regions,
    require_disjoint_tags,
    survey_regions,
    whole_granules,
)

_EPILOG = """\b
Examples:
  tagalong map vm.core
  tagalong map vm.core --range 0x40000000+64M
  tagalong map vm.core --at 0x0800000040268000
  tagalong map vm.core --html map.html
\b
  . tag 0   1-f that tag   + more than half 0   # several tags   - no tags
"""

_MOST_REGIONS = 12
_LINES_OF_A_REGION = 16
_LINES_OF_A_RANGE = 32
_GRANULE_RANGE_BYTES = 64 << 10


@click.command(epilog=_EPILOG)
@click.argument("file", type=FILE)
@click.option(
    "--range", "wanted", metavar="ADDR+LEN", type=address_range, help="Draw this range alone."
)
@click.option(
    "--at", "pointer", metavar="ADDR", type=address_range,
    help="Draw the granules around ADDR; a pointer's tag is compared.",
)  # fmt: skip
@click.option("--html", type=FILE, help="Write a page to look at in a browser to this file.")
@click.option("--json", "as_json", is_flag=True, help="Print what is drawn as JSON.")
def command(
    file: Path,
    *,
    wanted: tuple[int, int] | None,
    pointer: tuple[int, int] | None,
    html: Path | None,
    as_json: bool,
) -> None:
    """Draw the allocation tags of the core FILE, from the whole of it down to granules.

    FILE is a snapshot, a dump, or a core that Linux or another program wrote. Without a range each
    region is drawn in characters that stand for equal parts of it; a range of at most 64 KiB is
    drawn granule by granule. In colours if standard output is a terminal (and NO_COLOR is unset).

    With --html one self-contained page is written instead, with a map that zooms from the whole of
    memory to a granule; --at is then where it begins.
    """
    if wanted and pointer:
        raise UsageError("--range and --at were both given: give one of them")
    if html and (wanted or as_json):
        raise UsageError("--html takes neither --range nor --json: the page has all of the core")
    with open_any_core(file) as core:
        if html:
            page = map_page(core, str(file), pointer and address_of(pointer[0]))
            click.echo(page_report(write_page(html, page)))
            return
        if as_json:
            click.echo(json.dumps(_json(core, str(file), wanted, pointer), indent=2))
            return
        show(_lines(core, str(file), wanted, pointer))


def _lines(
    core: Core, name: str, wanted: tuple[int, int] | None, pointer: tuple[int, int] | None
) -> Iterator[Text | str]:
    if pointer:
        core.require_tags(*_granule(pointer[0]))
        yield from granule_report(granules_around(core, pointer[0]))
    elif wanted is None:
        yield from _whole(core, name)
    else:
        asked = tag_range(*wanted)
        if asked.end - asked.start <= _GRANULE_RANGE_BYTES:
            yield from granule_report(granules_of_range(core, asked.start, asked.end))
        else:
            require_disjoint_tags(core)
            yield from _cells(core, asked.start, asked.end, _LINES_OF_A_RANGE)
            yield LEGEND


def _granule(pointer: int) -> tuple[int, int]:
    asked = tag_range(pointer, 1)
    return asked.start, asked.end - asked.start


def _whole(core: Core, name: str) -> Iterator[Text | str]:
    surveys = survey_regions(core)
    yield from summary_lines(name, surveys, is_cut=any(each.is_cut for each in core.headers))
    drawn, left_out = drawn_regions(surveys, _MOST_REGIONS)
    for survey in drawn:
        start, end = whole_granules(survey.region.address, survey.region.end)
        cell_bytes = cell_size(end - start, _LINES_OF_A_REGION * cells_a_line(end))
        yield ""
        yield region_line(survey, cell_bytes)
        yield from _cells(core, start, end, _LINES_OF_A_REGION)
    if left_out:
        yield ""
        yield f"{count(left_out, 'more region')} with fewer tags: `tagalong info` lists all"
    if drawn:
        yield ""
        yield LEGEND


def _cells(core: Core, start: int, end: int, most_lines: int) -> Iterator[Text]:
    cell_bytes = cell_size(end - start, most_lines * cells_a_line(end))
    yield from cell_lines(count_cells(core, start, end, cell_bytes))


def _json(
    core: Core, name: str, wanted: tuple[int, int] | None, pointer: tuple[int, int] | None
) -> object:
    if wanted is None and pointer is None:
        return map_json(name, survey_regions(core))
    if wanted is None and pointer:
        window = granules_around(core, pointer[0])
        start, end, cell_bytes = window.start, window.end, 16
    else:
        asked = tag_range(*(wanted or (0, 1)))
        start, end = asked.start, asked.end
        require_disjoint_tags(core)
        cell_bytes = cell_size(end - start, _LINES_OF_A_RANGE * cells_a_line(end))
    return cells_json(name, count_cells(core, start, end, cell_bytes))
