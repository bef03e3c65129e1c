"""Pages are self-contained and closed to hostile text; their map says what the core says."""

import json
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from py_mini_racer import MiniRacer

from tagalong.cli.app import invoke
from tagalong.core import Core, open_core
from tagalong.core.regions import CoreRegion
from tagalong.explain.crash import UNKNOWN_TAG, TagArray
from tagalong.views.page import map_data as limits
from tagalong.views.page.document import document
from tagalong.views.page.elements import element, join
from tagalong.views.page.map_data import CorePlane, MapMark, map_data
from tagalong.views.page.map_page import map_page
from tests.support.core_builder import CoreBuilder, load, tag_segment
from tests.support.cores import PAGE, RAM, notes, random_planes, write_core
from tests.support.page_parts import PageParts

AT = 0x5000_0000_0000
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&\u202e"


@pytest.fixture(scope="module")
def engine() -> Iterator[MiniRacer]:
    """Return a JavaScript engine that has loaded the script of the page."""
    with MiniRacer() as racer:
        racer.eval(files("tagalong.views.page").joinpath("page.js").read_text())
        yield racer


def load_map(engine: MiniRacer, data: object) -> None:
    engine.eval(f"globalThis.map = new TagMap({json.dumps(data)}); 0")


def drawn_tags(engine: MiniRacer, data: object) -> dict[int, int | str]:
    """Return what the page's script says of each granule: its tag, "none", or "not here"."""
    load_map(engine, data)
    text = engine.eval(
        "Array.from({length: Number(map.size)}, (_, at) => {"
        "  const tag = map.tagAt(BigInt(at));"
        "  return hex(map.addressAt(BigInt(at))) + ' '"
        "    + (tag === undefined ? 'not-here' : tag === null ? 'none' : tag);"
        "}).join('\\n')"
    )
    pairs = [line.split() for line in str(text).splitlines()]
    return {int(at, 16): int(tag) if tag.isdigit() else tag for at, tag in pairs}


def true_tags(core: Core) -> dict[int, int | str]:
    found: dict[int, int | str] = {}
    for region in core.regions:
        for at in range(-(-region.address // 16) * 16, region.end // 16 * 16, 16):
            found[at] = int(core.granule_tags(at, 16)[0]) if region.has_tags else "none"
    return found


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 255), st.integers(1, 200)), min_size=1, max_size=4),
        min_size=1, max_size=4,
    )
)  # fmt: skip
def test_script_finds_each_granules_tag(
    tmp_path: Path, engine: MiniRacer, planes: list[list[tuple[int, int]]]
) -> None:
    segments = [
        tag_segment(AT + number * 0x1_0010, b"".join(bytes([b]) * n for b, n in runs))
        for number, runs in enumerate(planes)
    ]
    plain = load(AT + 0x10_0000, bytes(64))
    (tmp_path / "core").write_bytes(CoreBuilder([*segments, plain]).build())

    with open_core(tmp_path / "core") as core:
        data = map_data(CorePlane(core))

        assert drawn_tags(engine, data.to_json()) == true_tags(core)


def test_large_map_is_bounded_and_right_where_it_has_granules(
    tmp_path: Path, engine: MiniRacer, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 1 << 20
    data, tags = random_planes(size)
    tags[: 32 * 128] = 0x55
    write_core(tmp_path / "vm.core", notes(size), [data], [tags])
    monkeypatch.setattr(limits, "MAX_RUNS", 20)
    monkeypatch.setattr(limits, "MAX_DETAILS", 40)

    with open_core(tmp_path / "vm.core") as core:
        found = map_data(CorePlane(core), focus=[RAM + size - 5])
        truth = true_tags(core)

    drawn = drawn_tags(engine, found.to_json())
    assert found.run_count <= 20
    assert found.unit_bytes > PAGE
    assert len(found.details) == 40
    here = {at: tag for at, tag in drawn.items() if tag != "not-here"}
    assert here == {at: truth[at] for at in here}
    assert RAM + size - 16 in here  # the focus
    assert RAM in here  # uniform memory needs no details
    assert len(here) < len(truth)


def test_units_become_larger_before_they_are_too_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 1 << 20
    _, tags = random_planes(size)
    write_core(tmp_path / "vm.core", notes(size), [np.zeros(PAGE, np.uint8)], [tags])
    monkeypatch.setattr(limits, "MAX_UNITS", 64)

    with open_core(tmp_path / "vm.core") as core:
        found = map_data(CorePlane(core))

    assert found.unit_bytes == size // 64


def test_regions_beyond_the_limits_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    segments = [tag_segment(AT + n * PAGE, b"\x11" * (8 + n)) for n in range(9)]
    (tmp_path / "core").write_bytes(CoreBuilder(segments).build())
    monkeypatch.setattr(limits, "MAX_REGIONS", 4)

    with open_core(tmp_path / "core") as core:
        found = map_data(CorePlane(core), focus=[AT])
        monkeypatch.setattr(limits, "MAX_TAGGED_BYTES", 17 * 32)
        narrow = map_data(CorePlane(core))

    starts = [region.address - AT for region, _ in found.regions]
    assert starts == [0, 6 * PAGE, 7 * PAGE, 8 * PAGE]
    assert found.left_out == 5
    assert [region.address - AT for region, _ in narrow.regions] == [8 * PAGE]


class WideTags:
    """A plane with tags of eight bits, some of which are not known."""

    regions = (CoreRegion(AT, 64, has_data=False, has_tags=True),)

    def stored(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        yield start, stop

    def tags(self, start: int, length: int) -> TagArray:
        first = (start - AT) // 16
        return np.array([0xFE, 0x0A, UNKNOWN_TAG, 0], np.int16)[first : first + length // 16]


def test_tags_of_eight_bits_and_unknown_ones_are_told_apart(engine: MiniRacer) -> None:
    data = map_data(WideTags(), tag_bits=8)

    assert [*drawn_tags(engine, data.to_json()).values()] == [0xFE, 0x0A, "none", 0]


def test_cells_sum_up_what_is_in_them(tmp_path: Path, engine: MiniRacer) -> None:
    (tmp_path / "core").write_bytes(
        CoreBuilder(
            [tag_segment(AT, b"\x11" * 4 + b"\x33" * 2), load(AT + PAGE, bytes(64))]
        ).build()
    )
    with open_core(tmp_path / "core") as core:
        data = map_data(CorePlane(core), marks=[MapMark(AT + 16, AT + 32, "the fault")])

    load_map(engine, data.to_json())

    assert engine.eval("cellText(map, 0n, 16n)") == (
        "0x500000000000 to 0x500000001040: tag 1: 8 granules, tag 3: 4 granules, "
        "4 without tags, the fault"
    )
    assert engine.eval("cellText(map, 1n, 2n)") == (
        "0x500000000010 to 0x500000000020: tag 1, the fault"
    )
    assert engine.eval("String(map.placeOf(0x50000000100n))") == "12"
    assert engine.eval("map.placeOf(0x60000000000n)") is None


def test_page_runs_nothing_but_its_own_script(tmp_path: Path) -> None:
    write_core(tmp_path / "vm.core", notes(), [*random_planes(4 * PAGE)][:1])

    with open_core(tmp_path / "vm.core") as core:
        page = PageParts(map_page(core, "vm.core"))

    assert page.policy() == (
        f"default-src 'none'; script-src {page.source_of('script')}; "
        f"style-src {page.source_of('style')}; base-uri 'none'; form-action 'none'"
    )
    for name, attributes in page.elements:
        assert not {"src", "href", "style", "srcset"} & attributes.keys(), name
        assert not [each for each in attributes if each.startswith("on")], name
    for part in ("script", "style"):
        assert "http" not in page.content[part]
        assert "url(" not in page.content[part]
        assert "@import" not in page.content[part]
        assert "innerHTML" not in page.content[part]
        assert "eval" not in page.content[part]


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    write_core(tmp_path / "vm.core", notes(), [*random_planes(4 * PAGE)][:1])

    with open_core(tmp_path / "vm.core") as core:
        page = PageParts(map_page(core, HOSTILE))

    assert f"Tags of {HOSTILE[:-1]}\ufffd" in page.text
    assert [each.get("type") for each in page.named("script")] == ["application/json", None]
    assert page.named("img") == []


def test_hostile_text_in_data_ends_no_script() -> None:
    page = PageParts(document("t", join(), {"text": HOSTILE}))

    assert page.data == {"text": HOSTILE}
    assert len(page.named("script")) == 2


def test_elements_escape_text_and_attributes() -> None:
    made = element("a", "<b>", title='"><script>', hidden="", lang=None, class_="x", aria_label="y")

    assert made.text == (
        '<a title="&quot;&gt;&lt;script&gt;" hidden class="x" aria-label="y">&lt;b&gt;</a>'
    )


def test_everything_has_a_label(tmp_path: Path) -> None:
    write_core(tmp_path / "vm.core", notes(), [*random_planes(4 * PAGE)][:1])

    with open_core(tmp_path / "vm.core") as core:
        page = PageParts(map_page(core, "vm.core", RAM))

    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert page.named("html")[0]["lang"] == "en"
    for name, attributes in page.elements:
        for key in ("aria-labelledby", "aria-describedby", "for"):
            assert attributes.get(key, ids[0]) in ids, (name, key)
    (grid,) = [each for _, each in page.elements if each.get("role") == "grid"]
    assert grid["aria-labelledby"] == "map-title"


def test_map_writes_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    core, page = tmp_path / "vm.core", tmp_path / "map.html"
    write_core(core, notes(), [*random_planes(4 * PAGE)][:1])

    status = invoke(["map", str(core), "--html", str(page), "--at", "0x0f00000040000010"])

    assert status == 0
    assert f"{page} is complete: " in capsys.readouterr().out
    (mark,) = PageParts(page.read_text()).data["marks"]
    assert (mark["start"], mark["text"]) == ("0x40000010", "the address asked for")


def test_map_with_html_and_json_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = invoke(["map", str(tmp_path / "no"), "--html", str(tmp_path / "x"), "--json"])

    assert status == 2
    assert "--html takes neither --range nor --json" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
