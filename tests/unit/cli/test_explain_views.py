"""`tagalong explain`: the granules around the fault, and the page."""

from pathlib import Path

import pytest

from tagalong.cli.app import invoke
from tests.support.page_parts import PageParts
from tests.unit.explain import samples


@pytest.fixture
def tombstone(tmp_path: Path) -> Path:
    path = tmp_path / "tombstone_00"
    path.write_bytes(samples.tombstone())
    return path


def test_granules_around_the_fault_are_drawn(
    tombstone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = invoke(["explain", str(tombstone)])

    _, _, drawing = capsys.readouterr().out.partition("Tags around the fault")
    assert status == 0
    assert "=> 0x77a4d2e000 " in drawing
    assert "6  0 [4]\n" in drawing
    assert "   0x77a4d2e100  4  4  0  9  9  9  0  2  2  2  0  5  5  5  -  - \n" in drawing
    assert "   [ ] 0xb000077a4d2e0f0: the fault, logical tag b, allocation tag 4\n" in drawing
    assert max(map(len, drawing.splitlines())) <= 80


def test_nothing_is_drawn_where_no_tag_is_known(
    tombstone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = invoke(["explain", str(tombstone), "--redact"])

    assert status == 0
    assert "Tags around" not in capsys.readouterr().out


def test_html_writes_a_page(tombstone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tombstone.with_name("crash.html")

    status = invoke(["explain", str(tombstone), "--html", str(target)])

    page = PageParts(target.read_text())
    assert status == 0
    assert capsys.readouterr().out.startswith(f"{target} is complete: ")
    assert "What happened: com.example.app" in page.text
    assert "Most likely (>99 %): use after free" in page.text
    assert page.data["marks"][0]["start"] == "0x77a4d2e0f0"


def test_redacted_page_has_no_content_and_no_names(tombstone: Path) -> None:
    target = tombstone.with_name("crash.html")

    status = invoke(["explain", str(tombstone), "--redact", "--html", str(target)])

    page = target.read_text()
    assert status == 0
    for word in ("secret", "example", "tombstone_00", "77a4d2e0f0", "consume"):
        assert word not in page, word


def test_html_and_json_together_are_refused(
    tombstone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = invoke(["explain", str(tombstone), "--html", "x.html", "--json"])

    assert status == 2
    assert "--html and --json were both given: give one of them" in capsys.readouterr().err
