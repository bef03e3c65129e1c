"""Makes pages of the documents at the top of the tree, and points their links at the site.

README.md and its neighbours link to `docs/guide/x.md`, pages under docs/ link to
`../../README.md`: both are right where the files lie, and both are wrong on a site that has
the first at its root. So links are rewritten from one layout to the other, and mkdocs then
checks every one of them.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

_TOP = Path(__file__).parents[2]
_PAGES = {
    "README.md": "index.md",
    "ARCHITECTURE.md": "architecture.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
    "LICENSE": "LICENSE",
    "examples/migrate.py": "examples/migrate.py",
}
_LINK = re.compile(r"(?<=\]\()([^)#\s:]+)(?=[)#])")
_INCLUDE = re.compile(r"^<!-- example (\w+)\.py -->$", re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the documents at the top of the tree."""
    for source, page in _PAGES.items():
        text = (_TOP / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Rewrite the page's links, and put the examples where they are named."""
    here = page.file.src_uri
    top = {site: source for source, site in _PAGES.items()}.get(here)
    source = top or f"docs/{here}"

    def rewritten(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link[1]))
        site = _PAGES.get(target) or target.removeprefix("docs/")
        return posixpath.relpath(site, posixpath.dirname(here) or ".")

    return _INCLUDE.sub(_example, _LINK.sub(rewritten, markdown))


def _example(name: re.Match[str]) -> str:
    code = (_TOP / "examples" / f"{name[1]}.py").read_text(encoding="utf-8")
    return f"```python\n{code}```"
