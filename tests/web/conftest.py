"""A real Chromium, headless, for pages that tests write."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.webdriver import Chrome, ChromeOptions, ChromeService

from tests.support.fetch_chromium import ChromiumMissingError, find


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    """Return a browser that shows pages of 1300 by 1500 points."""
    try:
        found = find()
    except ChromiumMissingError as error:
        pytest.skip(str(error))
    options = ChromeOptions()
    options.binary_location = str(found.chromium)
    profile = tmp_path_factory.mktemp("profile")
    for argument in (
        "--headless=new", "--disable-gpu", "--no-sandbox", "--disable-dev-shm-usage",
        "--window-size=1300,1500", f"--user-data-dir={profile}",
    ):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Chrome(options=options, service=ChromeService(str(found.driver)))
    driver.set_page_load_timeout(120)
    try:
        yield driver
    finally:
        driver.quit()


@pytest.fixture(scope="session")
def pictures() -> Path:
    """Return the folder for screenshots, to be looked at by people."""
    folder = Path("build/web")
    folder.mkdir(parents=True, exist_ok=True)
    return folder
