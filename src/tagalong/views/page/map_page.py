"""The page of `tagalong map`: how much is tagged, the map, and a table of regions."""

from collections.abc import Sequence

from tagalong.core import Core
from tagalong.views.page.document import document
from tagalong.views.page.elements import Html, element, facts, join, table
from tagalong.views.page.map_data import CorePlane, MapData, MapMark, map_data
from tagalong.views.survey import TAG_COUNT, RegionSurvey, survey_regions

MAX_TABLE_REGIONS = 200

_KIBI = 1024


def map_page(core: Core, name: str, pointer: int | None = None) -> str:
    """Return the page about a core; `pointer` is outlined, and its granules are in the page.

    Raises as `survey_regions`.
    """
    surveys = survey_regions(core)
    marks = [] if pointer is None else [MapMark(pointer, pointer + 1, "the address asked for")]
    data = map_data(CorePlane(core), focus=[mark.start for mark in marks], marks=marks)
    body = element(
        "main",
        element("h1", f"Tags of {name}"),
        element("div", facts(_facts(surveys)), class_="panel"),
        map_section(data, "the address" if marks else None),
        regions_section(surveys),
    )
    return document(f"Tags of {name}", body, data.to_json())


def _facts(surveys: Sequence[RegionSurvey]) -> list[tuple[str, str]]:
    tagged = [each for each in surveys if each.counts is not None]
    total = sum(int(each.counts.sum()) for each in tagged if each.counts is not None)
    carrying = sum(each.tagged_granules for each in tagged)
    size = sum(each.region.size_bytes for each in tagged)
    return [
        ("Memory with tags", f"{bytes_text(size)} in {len(tagged)} of {len(surveys)} regions"),
        ("Granules", f"{total:,}, of which {carrying:,} carry a tag other than 0"),
    ]


def bytes_text(number: float) -> str:
    """Return bytes in the largest unit that leaves a digit before the point."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if number < _KIBI:
            return f"{number:.0f} bytes" if unit == "bytes" else f"{number:,.1f} {unit}"
        number /= _KIBI
    return f"{number:,.1f} TiB"


def map_section(data: MapData, marked: str | None) -> Html:
    """Return the map; `marked` names what is outlined, for the button that leads there."""
    buttons = [
        element("button", "Zoom in", id="in", type="button"),
        element("button", "Zoom out", id="out", type="button"),
        element("button", "Whole memory", id="whole", type="button"),
    ]
    if marked and data.marks:
        buttons.append(element("button", f"To {marked}", id="fault", type="button"))
    go = [
        element("label", "Address", for_="address"),
        element("input", id="address", placeholder="0x40000000", autocomplete="off"),
        element("button", "Go", id="go", type="button"),
    ]
    left_out = (
        element("p", f"{data.left_out:,} small regions are not in this page.", class_="soft")
        if data.left_out
        else join()
    )
    return element(
        "section",
        element("h2", "Map of tags", id="map-title"),
        element(
            "noscript",
            element("p", "The map needs JavaScript; all else on this page does not."),
        ),
        element(
            "div",
            element(
                "p",
                "All regions end to end. Arrow keys move, + and Enter zoom in, - and Backspace "
                "zoom out, Page Up and Page Down turn pages.",
                class_="soft", id="map-help",
            ),
            element("div", *buttons, *go, class_="tools"),
            element("p", class_="where", id="where", role="status", aria_live="polite"),
            element(
                "div", class_="cells", id="cells", role="grid", aria_labelledby="map-title",
                aria_describedby="map-help",
            ),
            element("p", class_="soft", id="scale", role="status"),
            _key(data.tag_bits),
            id="map", hidden="",
        ),
        left_out,
        aria_labelledby="map-title",
    )  # fmt: skip


def _key(tag_bits: int) -> Html:
    tags = [
        element("li", element("span", f"{tag:x}", class_=f"cell t{tag:x}"))
        for tag in range(TAG_COUNT)
    ]
    words = "tag" if tag_bits == 4 else "tag; of 8 bits the lower digit chooses the colour"
    return element(
        "ul",
        element("li", "Key:"),
        *tags,
        element("li", words),
        element("li", element("span", class_="cell t5 mixed"), "several tags"),
        element("li", element("span", "-", class_="cell none"), "no tags"),
        class_="key",
    )


def regions_section(surveys: Sequence[RegionSurvey]) -> Html:
    """Return the table of regions, those with the most tags first."""
    ranked = sorted(surveys, key=lambda each: (-each.tagged_granules, each.region.address))
    shown = ranked[:MAX_TABLE_REGIONS]
    shown.sort(key=lambda each: each.region.address)
    rows = [_region_row(each) for each in shown]
    more = len(surveys) - len(shown)
    note = (
        element("p", f"{more:,} more regions with fewer tags are not listed.", class_="soft")
        if more
        else join()
    )
    heads = ["From", "To", "Size", "Data", "Tags", "Tagged granules", "Map"]
    return element(
        "section", element("h2", "Regions"), table(heads, rows, "Regions of memory"), note
    )


def _region_row(each: RegionSurvey) -> list[Html | str]:
    region = each.region
    address = f"{region.address:#x}"
    return [
        address,
        f"{region.end:#x}",
        bytes_text(region.size_bytes),
        "yes" if region.has_data else "no",
        "yes" if region.has_tags else "no",
        f"{each.tagged_granules:,}" if region.has_tags else "",
        element(
            "button", "Show", type="button", data_address=address,
            aria_label=f"Show the region at {address} in the map",
        ),
    ]  # fmt: skip
