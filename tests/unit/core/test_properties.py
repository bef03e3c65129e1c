"""Whatever is written, in whatever layout and order, is what is read."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tagalong.core import Core, CoreSegment, CoreWriter, open_core, pack
from tagalong.core.check import check_core
from tagalong.memory import Gpa
from tests.support.cores import notes, used_parts

PAGES = st.sampled_from([4096, 4096, 4096, 16384, 65536])
Planes = list[tuple[NDArray[np.uint8], NDArray[np.uint8] | None]]


@st.composite
def layouts(draw: st.DrawFn) -> tuple[int, list[CoreSegment]]:
    """Return a page size and segments in any order, some without tags, some adjoining."""
    page = draw(PAGES)
    shapes = draw(
        st.lists(
            st.tuples(st.integers(0, 3), st.integers(1, 5), st.booleans()), min_size=1, max_size=5
        )
    )
    at = draw(st.sampled_from([0, 0x4000_0000, 0xFFFF_8000_0000_0000]))
    segments = []
    for gap, count, has_tags in shapes:
        at += gap * page
        segments.append(CoreSegment(at, Gpa(at & (1 << 40) - 1), count * page, has_tags))
        at += count * page
    return page, draw(st.permutations(segments))


@st.composite
def histories(
    draw: st.DrawFn,
) -> tuple[int, list[CoreSegment], list[tuple[int, bool, int, int, int]]]:
    """Return a layout and writes: segment, whether tags, first page, pages, what."""
    page, segments = draw(layouts())
    writes = []
    for _ in range(draw(st.integers(0, 8))):
        number = draw(st.integers(0, len(segments) - 1))
        count = segments[number].size_bytes // page
        first = draw(st.integers(0, count - 1))
        pages = draw(st.integers(1, count - first))
        is_tags = segments[number].has_tags and draw(st.booleans())
        writes.append((number, is_tags, first, pages, draw(st.integers(0, 5))))
    return page, segments, writes


def content(kind: int, size: int, unit: int) -> NDArray[np.uint8]:
    """Return zero, random bytes, or both by turns, of `size` bytes in pages of `unit`."""
    if kind == 0:
        return np.zeros(size, np.uint8)
    filled = np.random.default_rng(kind).integers(0, 256, size, np.uint8)
    if kind > 2:
        filled.reshape(-1, unit)[kind % 2 :: 2] = 0
    return filled


def compare(core: Core, segments: list[CoreSegment], planes: Planes) -> None:
    for segment, (data, tags) in zip(segments, planes, strict=True):
        assert np.array_equal(core.data(segment.address, segment.size_bytes), data)
        if tags is not None:
            assert np.array_equal(core.tags(segment.address, segment.size_bytes), tags)
    # Across everything that adjoins, in one go.
    for region in core.regions:
        joined = np.concatenate(
            [
                data
                for segment, (data, _) in sorted(
                    zip(segments, planes, strict=True), key=lambda pair: pair[0].address
                )
                if region.address <= segment.address < region.end
            ]
        )
        assert np.array_equal(core.data(region.address, region.size_bytes), joined)


@settings(max_examples=60, deadline=None)
@given(histories())
def test_core_read_is_what_was_written(
    history: tuple[int, list[CoreSegment], list[tuple[int, bool, int, int, int]]],
) -> None:
    page, segments, writes = history
    about = notes(page, page_size_bytes=page)
    planes: Planes = [
        (
            np.zeros(s.size_bytes, np.uint8),
            np.zeros(s.size_bytes // 32, np.uint8) if s.has_tags else None,
        )
        for s in segments
    ]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "vm.core"
        with CoreWriter(path, segments, page_size_bytes=page) as writer:
            for number, is_tags, first, pages, kind in writes:
                unit = page // 32 if is_tags else page
                piece = content(kind, pages * unit, unit)
                data, tags = planes[number]
                plane = tags if is_tags and tags is not None else data
                plane[first * unit : (first + pages) * unit] = piece
                write = writer.write_tags if is_tags else writer.write_data
                write(number, first * page, piece)
            writer.commit(about)
        with open_core(path) as core:
            compare(core, segments, planes)
            assert core.machine == about
            assert all(f.level.value != "error" for f in check_core(core).findings)
            check_holes(path, core, planes, segments)
        pack(path, path.with_suffix(".zst"))
        with open_core(path.with_suffix(".zst")) as core:
            compare(core, segments, planes)


def check_holes(path: Path, core: Core, planes: Planes, segments: list[CoreSegment]) -> None:
    """No block of a plane that is all zero has disk."""
    used = [range(start // 4096, -(-stop // 4096)) for start, stop in used_parts(path)]
    tag_headers = {header.address: header for header in core.tag_segments}
    for load, segment, (data, tags) in zip(core.loads, segments, planes, strict=True):
        placed = [(load.offset, data)]
        if tags is not None:
            placed.append((tag_headers[segment.address].offset, tags))
        for offset, plane in placed:
            for block in range(0, plane.size, 4096):
                if not plane[block : block + 4096].any():
                    number = (offset + block) // 4096
                    assert not any(number in part for part in used)
