"""HTML of values: every text is escaped on its way in, and only elements made here are not."""

from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from typing import Final

from tagalong.printable import printable

_VOID: Final = frozenset({"meta", "br", "input"})


@dataclass(frozen=True)
class Html:
    """Text that is HTML already. Made by `element` alone."""

    text: str


Child = Html | str


def element(name: str, /, *children: Child | Iterable[Child], **attributes: str | None) -> Html:
    """Return an element. Text in `children` and attributes is escaped.

    Characters that a terminal or a browser obeys, such as a change of the writing direction, are
    replaced as everywhere (tagalong.printable). In an attribute's name `_` stands for `-`, and a
    `_` at its end is dropped; one that is None is left out, and an empty one has no value.

    >>> element("p", "a < b", class_="x").text
    '<p class="x">a &lt; b</p>'
    """
    start = name + "".join(
        f" {_attribute_name(key)}" + (f'="{escape(printable(value))}"' if value else "")
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID:
        return Html(f"<{start}>")
    return Html(f"<{start}>{join(*children).text}</{name}>")


def join(*children: Child | Iterable[Child]) -> Html:
    """Return children one after the other."""
    return Html("".join(_texts(children)))


def _texts(children: Iterable[Child | Iterable[Child]]) -> Iterable[str]:
    for child in children:
        if isinstance(child, Html):
            yield child.text
        elif isinstance(child, str):
            yield escape(printable(child))
        else:
            yield from _texts(child)


def _attribute_name(key: str) -> str:
    return key.rstrip("_").replace("_", "-")


def table(heads: Iterable[str], rows: Iterable[Iterable[Child]], caption: str) -> Html:
    """Return a table that a screen reader can announce by its caption and heads."""
    return element(
        "div",
        element(
            "table",
            element("caption", caption),
            element("thead", element("tr", [element("th", head, scope="col") for head in heads])),
            element(
                "tbody", [element("tr", [element("td", cell) for cell in row]) for row in rows]
            ),
        ),
        class_="scroll",
        tabindex="0",
        role="region",
        aria_label=caption,
    )


def facts(pairs: Iterable[tuple[str, Child]]) -> Html:
    """Return names and values, each pair a row."""
    return element("dl", [join(element("dt", name), element("dd", value)) for name, value in pairs])
