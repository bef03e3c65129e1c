"""The page of `tagalong scan`: groups, what they share, and what could not be explained."""

from collections.abc import Iterator
from typing import Final

from tagalong.scan.groups import CrashGroup, ScanResult, SharedFeature
from tagalong.views.page.crash_page import percent
from tagalong.views.page.document import document
from tagalong.views.page.elements import Html, element, facts, join, table

MAX_GROUPS: Final = 200
MAX_FAILED: Final = 200


def scan_page(result: ScanResult) -> str:
    """Return the page about a scan; it is of bounded size."""
    title = f"{result.crashes:,} crashes in {len(result.groups):,} groups"
    more = len(result.groups) - MAX_GROUPS
    body = element(
        "main",
        element("h1", title),
        element("div", facts(_facts(result)), class_="panel"),
        element(
            "section",
            element("h2", "Groups"),
            element(
                "p",
                "Crashes with one cause at one place, the largest group first; tags and addresses "
                "make no difference. What most members share is listed with its share of the "
                "group, and of all crashes.",
                class_="soft",
            ),
            [_group(each, number) for number, each in enumerate(result.groups[:MAX_GROUPS], 1)],
            element("p", f"{more:,} more groups are not in this page.", class_="soft")
            if more > 0
            else join(),
        ),
        _failed(result),
    )
    return document(title, body)


def _facts(result: ScanResult) -> Iterator[tuple[str, str]]:
    yield "Files", f"{result.files:,}"
    yield "Crashes", f"{result.crashes:,}"
    yield "Not explained", f"{len(result.failed):,}"


def _group(group: CrashGroup, number: int) -> Html:
    sure = "" if group.probability is None else f", {percent(group.probability)} sure on average"
    return element(
        "details",
        element(
            "summary",
            element("span", f"{group.count:,}", class_="percent"),
            element("span", element("strong", group.title), sure),
        ),
        element(
            "meter", percent(group.share), value=f"{group.share:.4f}", min="0", max="1",
            aria_label=f"Share of all crashes of group {number}",
        ),
        table(
            ["Shared", "Value", "In the group", "In all"],
            [_shared(each) for each in group.shared],
            "What most of them share",
        )
        if group.shared
        else join(),
        element("p", "For instance:", class_="soft"),
        element("ul", [element("li", element("code", url)) for url in group.examples]),
        element("p", "Signature ", element("code", group.signature), class_="soft"),
        class_="hypothesis panel",
        open="" if number == 1 else None,
    )  # fmt: skip


def _shared(feature: SharedFeature) -> list[str]:
    return [
        feature.name, str(feature.value), percent(feature.share), percent(feature.share_of_all),
    ]  # fmt: skip


def _failed(result: ScanResult) -> Html:
    if not result.failed:
        return join()
    rows = [
        [each.url, each.error_class or "", each.error or ""] for each in result.failed[:MAX_FAILED]
    ]
    more = len(result.failed) - len(rows)
    return element(
        "section",
        element("h2", "Not explained"),
        table(["File", "Error", "Reason"], rows, "Files that could not be explained"),
        element("p", f"{more:,} more are not in this page.", class_="soft") if more else join(),
    )
