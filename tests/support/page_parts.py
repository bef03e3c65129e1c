"""A page taken apart as a browser would, for tests that need no browser."""

import json
from base64 import b64encode
from hashlib import sha256
from html.parser import HTMLParser
from typing import Any

_VOID = {"meta", "br", "input"}


class PageParts(HTMLParser):
    """All of a page: elements in order as (name, attributes), text, style, script, data.

    Raises AssertionError for elements that do not nest.
    """

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.content: dict[str, str] = {}
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), (tag, names)
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in _VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        inside = self._open[-1] if self._open else ""
        if inside in ("style", "script"):
            attributes = self.elements[-1][1]
            key = attributes.get("id", inside)
            self.content[key] = self.content.get(key, "") + data
        else:
            self.text += data

    @property
    def data(self) -> Any:
        """Return what the script draws."""
        return json.loads(self.content["data"])

    def named(self, name: str) -> list[dict[str, str]]:
        """Return the attributes of all elements of a name."""
        return [attributes for tag, attributes in self.elements if tag == name]

    def policy(self) -> str:
        """Return the Content-Security-Policy."""
        (found,) = [
            each["content"]
            for each in self.named("meta")
            if each.get("http-equiv") == "Content-Security-Policy"
        ]
        return found

    def source_of(self, part: str) -> str:
        """Return how a policy names the page's style or script."""
        digest = b64encode(sha256(self.content[part].encode()).digest()).decode()
        return f"'sha256-{digest}'"
