"""The tables of a document in docs/formats, to be compared with the code."""

from pathlib import Path

from tagalong.binary.layout import Layout

_FORMATS = Path(__file__).parents[2] / "docs" / "formats"
_SIZES = {"u8": 1, "u16": 2, "u32": 4, "u64": 8}


class FormatDocument:
    """One document; `text` is all of it."""

    def __init__(self, name: str) -> None:
        self.text = (_FORMATS / name).read_text("utf-8")

    def rows_after(self, marker: str) -> list[list[str]]:
        """Return the cells of the first table that follows `marker`, without its head."""
        lines = self.text[self.text.index(marker) :].splitlines()
        start = next(number for number, line in enumerate(lines) if line.startswith("|"))
        rows = []
        for line in lines[start + 2 :]:
            if not line.startswith("|"):
                break
            rows.append([cell.strip().strip("`") for cell in line.strip("|").split("|")])
        return rows

    def require_byte_table(self, title: str, layout: Layout) -> None:
        """Assert that the table under the heading `title` is the layout."""
        at = 0
        rows = self.rows_after(f"### {title}\n")
        assert [row[3] for row in rows] == [name for name, _ in layout.fields], title
        for (offset, size, kind, name, *_), (_, code_kind) in zip(rows, layout.fields, strict=True):
            assert int(offset) == at == layout.offsets[name], name
            if isinstance(code_kind, int):
                assert (kind, int(size)) == ("bytes", code_kind), name
            else:
                assert (kind, int(size)) == (code_kind, _SIZES[code_kind]), name
            at += int(size)
        assert layout.size == at, title
