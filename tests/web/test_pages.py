"""The pages in a real Chromium: what they show, by mouse, by keyboard, to a screen reader."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from tagalong.core import open_core
from tagalong.explain.analysis import explain
from tagalong.explain.readers import open_crashes
from tagalong.memory import Gpa
from tagalong.soft import RAM_GPA, SoftMachine
from tagalong.views.page.crash_page import crash_page
from tagalong.views.page.map_page import map_page
from tests.support import a64, guest_core
from tests.support.bare import DATA, tagged
from tests.support.bare_program import BareProgram
from tests.support.cores import RAM, notes, write_core
from tests.support.explained import explanation

SIZE = 4 << 30
HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def large_map(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the page of a core of 4 GiB whose first 64 MiB have all kinds of tags."""
    folder = tmp_path_factory.mktemp("large")
    tags = np.random.default_rng(1).integers(1, 256, (64 << 20) // 32, np.uint8)
    tags[: 128 * 1024] = 0x77
    write_core(folder / "vm.core", notes(SIZE), [np.ones(4096, np.uint8)], [tags])
    with open_core(folder / "vm.core") as core:
        (folder / "map.html").write_text(map_page(core, "vm.core", RAM + 0x400120))
    return folder / "map.html"


@pytest.fixture
def crash(browser: Chrome, tmp_path: Path) -> Iterator[Chrome]:
    """Show the page about a crash."""
    (tmp_path / "crash.html").write_text(crash_page(explanation()))
    browser.get(f"file://{tmp_path}/crash.html")
    yield browser
    assert log_of(browser) == []


def log_of(browser: Chrome) -> list[object]:
    """Return what the browser complained about."""
    return [*browser.execute("getLog", {"type": "browser"})["value"]]


def by(browser: Chrome, selector: str) -> WebElement:
    return browser.find_element(By.CSS_SELECTOR, selector)


def where(browser: Chrome) -> str:
    return by(browser, "#where").text


def press(browser: Chrome, *keys: str) -> None:
    browser.switch_to.active_element.send_keys(*keys)


def test_map_of_4_gib_zooms_from_all_of_it_to_a_granule(
    browser: Chrome, large_map: Path, pictures: Path
) -> None:
    browser.get(f"file://{large_map}")
    assert where(browser) == f"{RAM + 0x400120:#x} to {RAM + 0x400130:#x}: {granule_text(browser)}"

    by(browser, "#whole").click()
    scale = by(browser, "#scale").text
    browser.save_screenshot(str(pictures / "map-whole.png"))
    by(browser, ".cell").click()
    seen = [scale]
    for _ in range(10):
        press(browser, "+")
        seen.append(by(browser, "#scale").text)
    browser.save_screenshot(str(pictures / "map-granules.png"))

    assert scale == "One square is 16 MiB."
    assert seen[-1] == "One square is one granule, 16 bytes."
    assert where(browser) == "0x40000000 to 0x40000010: tag 7"
    assert large_map.stat().st_size < 3 << 20
    assert log_of(browser) == []


def granule_text(browser: Chrome) -> str:
    """Return what the cell with the address that was asked for says of its tag."""
    tag = by(browser, ".cell.fault").text
    return f"tag {tag}, the address asked for"


def test_keys_move_through_the_map(browser: Chrome, large_map: Path) -> None:
    browser.get(f"file://{large_map}")
    by(browser, "#whole").click()
    for _ in range(10):
        by(browser, "#in").click()

    places = []
    for key in (Keys.RIGHT, Keys.DOWN, Keys.END, Keys.HOME, Keys.PAGE_DOWN, Keys.PAGE_UP, Keys.UP):
        press(browser, key)
        places.append(int(where(browser).split()[0], 16) - RAM)

    assert places == [0x10, 0x210, 0x3F0, 0x200, 0x2200, 0x200, 0]
    press(browser, "-")
    assert by(browser, "#scale").text == "One square is 64 bytes."


def test_address_field_leads_to_an_address(browser: Chrome, large_map: Path) -> None:
    browser.get(f"file://{large_map}")
    field = by(browser, "#address")

    field.send_keys("0x0b0000013ffffff0", Keys.ENTER)
    found = where(browser)
    field.clear()
    field.send_keys("nonsense", Keys.ENTER)
    complaint = where(browser)
    field.clear()
    field.send_keys("0x7000000000000", Keys.ENTER)

    assert found == "0x13ffffff0 to 0x140000000: tag 0"
    assert complaint == "Write an address as 0x40000000."
    assert where(browser) == "No memory at or above 0x7000000000000."


def test_each_cell_has_a_label_and_one_is_in_the_tab_order(crash: Chrome) -> None:
    cells = crash.find_elements(By.CSS_SELECTOR, "#cells [role=gridcell]:not(.off)")
    labels = crash.execute_script(
        "return arguments[0].map((cell) => cell.getAttribute('aria-label'))", cells
    )
    focusable = crash.find_elements(By.CSS_SELECTOR, "#cells [tabindex='0']")

    assert len(cells) == 512
    assert all(" to 0x" in label for label in labels)
    (focused,) = [cell.get_attribute("aria-label") for cell in focusable]
    assert focused is not None
    assert " ".join(focused.split()) == where(crash)
    assert where(crash).startswith("0x7f0000001020 to 0x7f0000001030: tag 5, the fault, block A")


def test_tab_leads_through_the_tools_to_the_map(crash: Chrome) -> None:
    crash.execute_script("document.getElementById('in').focus()")
    seen = []
    for _ in range(7):
        seen.append(crash.switch_to.active_element.get_attribute("id"))
        press(crash, Keys.TAB)

    assert seen[:6] == ["in", "out", "whole", "fault", "address", "go"]
    assert seen[6] == ""  # the one square that is in the order


def accessible(browser: Chrome) -> list[tuple[str, str]]:
    """Return role and name of each node that a screen reader is told of."""
    browser.execute_cdp_cmd("Accessibility.enable", {})
    nodes = browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    return [
        (str(node["role"]["value"]), " ".join(str(node.get("name", {}).get("value", "")).split()))
        for node in nodes
        if not node["ignored"]
    ]


def test_screen_reader_is_told_what_each_thing_is(crash: Chrome) -> None:
    told = accessible(crash)

    by_role = {role: [name for each, name in told if each == role] for role, _ in told}
    assert by_role["button"] == ["Zoom in", "Zoom out", "Whole memory", "To the fault", "Go"]
    assert by_role["textbox"] == ["Address"]
    assert by_role["grid"] == ["Map of tags"]
    assert len(by_role["row"]) >= 16
    assert len(by_role["gridcell"]) == 512
    assert all(" to 0x" in name for name in by_role["gridcell"])
    assert [name[:5] for name in by_role["rowheader"]] == ["0x7f0"] * 16
    assert by_role["meter"][0] == "Probability of use-after-free"
    assert {"Registers", "Memory around the fault"} <= {*by_role["heading"]}
    assert "Registers at the fault" in by_role["table"]
    named = ("button", "textbox", "grid", "gridcell", "table", "meter", "heading", "region")
    assert not [role for role, name in told if role in named and not name]


@pytest.fixture(scope="module")
def guest_crash(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return the core of a guest of 4 GiB with a fault and much that has tags, and its page."""
    folder = tmp_path_factory.mktemp("guest")
    first, second = tagged(DATA, 3), tagged(DATA + 32, 5)
    program = BareProgram(
        SoftMachine.create, [a64.stg(1, 1), a64.stg(2, 2), a64.str_(0, 3)],
        {1: first, 2: second, 3: first + 32}, ram_bytes=SIZE,
    ).run()  # fmt: skip
    tags = np.random.default_rng(1).integers(0, 256, (64 << 20) // 32, np.uint8)
    program.machine.write_tags(Gpa(RAM_GPA + (512 << 20)), tags)
    guest_core.write(program.machine, folder / "guest.core")
    program.machine.close()
    with open_crashes(folder / "guest.core") as (crash,):
        (folder / "guest.html").write_text(crash_page(explain(crash)))
    return folder / "guest.core", folder / "guest.html"


def test_crash_of_a_guest_of_4_gib_zooms_from_all_that_is_mapped_to_the_fault(
    browser: Chrome, guest_crash: tuple[Path, Path], pictures: Path
) -> None:
    core, page = guest_crash
    browser.get(f"file://{page}")
    assert where(browser).startswith(f"{DATA + 32:#x} to {DATA + 48:#x}: tag 5, the fault, block")

    by(browser, "#whole").click()
    whole = by(browser, "#scale").text
    browser.save_screenshot(str(pictures / "guest-whole.png"))
    mixed = browser.find_elements(By.CSS_SELECTOR, "#cells .cell.mixed")
    by(browser, "#fault").click()

    assert core.stat().st_size > SIZE
    assert page.stat().st_size < 3 << 20
    assert whole == "One square is 4 MiB."  # its tables map 1 GiB
    assert len(mixed) == 17  # 64 MiB, and the program with its fault
    assert by(browser, "#scale").text == "One square is one granule, 16 bytes."
    assert browser.switch_to.active_element.text == "B5"
    assert log_of(browser) == []


def test_crash_page_shows_hypotheses_map_and_memory(crash: Chrome, pictures: Path) -> None:
    crash.save_screenshot(str(pictures / "crash.png"))
    first, second = crash.find_elements(By.CSS_SELECTOR, "details.hypothesis")

    assert by(crash, "h1").text == "What happened: core.1234"
    assert first.get_attribute("open") is not None
    assert "12 times more often" in first.text
    assert "no" not in second.text.splitlines()
    second.find_element(By.TAG_NAME, "summary").send_keys(Keys.ENTER)
    assert second.get_attribute("open") is not None
    assert len(crash.find_elements(By.CSS_SELECTOR, ".cell.block")) == 3
    assert len(crash.find_elements(By.CSS_SELECTOR, ".cell.fault")) == 1
    assert by(crash, "tr.here").text.split()[0] == "0x7f0000001020"


def test_dark_and_narrow_pages_are_readable(crash: Chrome, pictures: Path) -> None:
    crash.execute_cdp_cmd(
        "Emulation.setEmulatedMedia",
        {"features": [{"name": "prefers-color-scheme", "value": "dark"}]},
    )
    crash.save_screenshot(str(pictures / "crash-dark.png"))
    color, ground = (
        by(crash, "body").value_of_css_property(name) for name in ("color", "background-color")
    )
    crash.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 400, "height": 900, "deviceScaleFactor": 2, "mobile": True},
    )
    crash.save_screenshot(str(pictures / "crash-narrow.png"))
    by(crash, "#where").location_once_scrolled_into_view  # noqa: B018 (it scrolls)
    crash.save_screenshot(str(pictures / "map-narrow.png"))
    wide, page = crash.execute_script(
        "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    crash.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    crash.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})

    assert (color, ground) == ("rgba(232, 232, 228, 1)", "rgba(21, 23, 26, 1)")
    assert wide <= page


def test_hostile_text_runs_nothing(browser: Chrome, tmp_path: Path) -> None:
    (tmp_path / "crash.html").write_text(crash_page(explanation(HOSTILE, HOSTILE)))

    browser.get(f"file://{tmp_path}/crash.html")

    assert browser.title == f"What happened: {HOSTILE}"
    assert browser.find_elements(By.TAG_NAME, "img") == []
    assert log_of(browser) == []


def test_policy_blocks_what_a_page_does_not_bring(browser: Chrome, tmp_path: Path) -> None:
    """Even if a text were not escaped."""
    page = crash_page(explanation())
    injected = page.replace("<main>", "<main><script>document.title='owned'</script>", 1)
    assert injected != page
    (tmp_path / "crash.html").write_text(injected)

    browser.get(f"file://{tmp_path}/crash.html")

    assert browser.title == "What happened: core.1234"
    assert any("Content Security Policy" in str(each) for each in log_of(browser))
