"""The cpio writer, read back by a reader of our own; the kernel reads it in tests/lab."""

import io
import stat

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tagalong.lab.cpio import CpioWriter
from tests.support.cpio_reader import read, read_by_path

NAMES = st.text(st.characters(min_codepoint=48, max_codepoint=122), min_size=1, max_size=9)


def written(*calls: tuple[object, ...], **options: int) -> bytes:
    """Return the archive that `calls`, as in ("add_file", path, data), make."""
    out = io.BytesIO()
    writer = CpioWriter(out)
    for name, *arguments in calls:
        getattr(writer, str(name))(*arguments, **options)
    writer.close()
    return out.getvalue()


def test_add_file_is_read_back_with_mode_and_time() -> None:
    archive = written(("add_file", "init", b"#!/bin/sh\n"), permissions=0o755, mtime_s=1234)

    (entry,) = read(archive)

    assert (entry.path, entry.data, entry.mtime_s) == ("init", b"#!/bin/sh\n", 1234)
    assert entry.mode == stat.S_IFREG | 0o755


def test_add_file_header_is_byte_for_byte_newc() -> None:
    archive = written(("add_file", "a", b"xyz"))

    assert archive[:116] == (
        b"070701" b"00000001" b"000081A4" b"00000000" b"00000000" b"00000001" b"00000000"
        b"00000003" b"00000000" b"00000000" b"00000000" b"00000000" b"00000002" b"00000000"
        b"a\0" b"xyz\0"
    )  # fmt: skip


def test_add_file_folders_on_the_way_come_first_and_once() -> None:
    archive = written(("add_file", "a/b/one", b""), ("add_file", "/a/b/two", b""))

    entries = read(archive)

    assert [e.path for e in entries] == ["a", "a/b", "a/b/one", "a/b/two"]
    assert [e.is_folder for e in entries] == [True, True, False, False]


def test_entries_of_every_kind_come_after_their_folders() -> None:
    for call in (
        ("add_symlink", "a/b/link", "target"),
        ("add_character_device", "a/b/console", 5, 1),
        ("add_folder", "a/b/folder"),
    ):
        assert [entry.path for entry in read(written(call))] == ["a", "a/b", call[1]], call


def test_add_symlink_target_is_the_data() -> None:
    entry = read_by_path(written(("add_symlink", "bin/sh", "busybox")))["bin/sh"]

    assert stat.S_ISLNK(entry.mode)
    assert entry.data == b"busybox"


def test_add_character_device_has_its_numbers() -> None:
    entry = read_by_path(written(("add_character_device", "dev/console", 5, 1)))["dev/console"]

    assert stat.S_ISCHR(entry.mode)
    assert entry.device == (5, 1)


def test_add_folder_twice_is_there_once() -> None:
    assert [e.path for e in read(written(("add_folder", "tmp"), ("add_folder", "/tmp/")))] == [
        "tmp"
    ]


def test_every_entry_has_its_own_inode() -> None:
    entries = read(written(("add_file", "x/a", b"1"), ("add_file", "x/b", b"2")))

    assert len({entry.inode for entry in entries}) == 3


def test_archives_joined_end_to_end_stay_aligned() -> None:
    for length in range(9):
        assert len(written(("add_file", "n" * (length + 1), bytes(length)))) % 4 == 0


@pytest.mark.parametrize("mtime_s", [-1, 1 << 32])
def test_add_file_time_that_does_not_fit_is_refused(mtime_s: int) -> None:
    with pytest.raises(ValueError, match=rf"a: 0x0 bytes, time {mtime_s}: does not fit in 32 bits"):
        written(("add_file", "a", b""), mtime_s=mtime_s)


@settings(max_examples=50)
@given(st.dictionaries(NAMES, st.binary(max_size=40), max_size=6))
def test_any_files_are_read_back(files: dict[str, bytes]) -> None:
    archive = written(*(("add_file", f"f/{name}", data) for name, data in files.items()))

    found = {e.path: e.data for e in read(archive) if not e.is_folder}

    assert found == {f"f/{name}": data for name, data in files.items()}
