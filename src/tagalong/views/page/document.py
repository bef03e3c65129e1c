"""Head, policy, style and script around a body."""

import json
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Final

from tagalong.files import NewFile, WrittenFile
from tagalong.views.page.elements import Html, element, join

_SAFE_IN_SCRIPT: Final = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"}


def document(title: str, body: Html, data: object = None) -> str:
    """Return a whole page. `data` is what page.js draws, as plain values; None for no map."""
    style = _part("page.css")
    script = "" if data is None else _part("page.js")
    own_script = _source(script) if script else "'none'"
    policy = (
        f"default-src 'none'; script-src {own_script}; "
        f"style-src {_source(style)}; base-uri 'none'; form-action 'none'"
    )
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", name="referrer", content="no-referrer"),
        element("title", title),
        Html(f"<style>{style}</style>"),
    )
    scripts = Html(
        f'<script type="application/json" id="data">{_json(data)}</script><script>{script}</script>'
    )
    rest = join(body, scripts) if script else body
    html = element("html", head, element("body", rest), lang="en")
    return f"<!DOCTYPE html>\n{html.text}\n"


@contextmanager
def new_page(path: Path) -> Iterator[Callable[[str], WrittenFile]]:
    """Yield what writes a page under its name when it is complete.

    A name that cannot be written raises HostError at once, before the work that the page is about.
    After an error no file is left.
    """
    file = NewFile(path)

    def write(page: str) -> WrittenFile:
        file.write(0, page.encode())
        return file.publish()

    try:
        yield write
    finally:
        file.close()


def write_page(path: Path, page: str) -> WrittenFile:
    """Write a page under its name when it is complete. Raises HostError, with no file left."""
    with new_page(path) as write:
        return write(page)


def _part(name: str) -> str:
    return files("tagalong.views.page").joinpath(name).read_text(encoding="utf-8")


def _source(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


def _json(data: object) -> str:
    """Return JSON that ends no script element, whatever its texts are."""
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"))
    for character, escaped in _SAFE_IN_SCRIPT.items():
        text = text.replace(character, escaped)
    return text
