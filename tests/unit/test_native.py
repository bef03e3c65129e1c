"""What the loader of the native library accepts, against libraries that differ in one thing."""

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

from tagalong import _native
from tagalong.errors import NativeLibraryError
from tagalong.mte.numpy_kernels import TAG_RUN

REBUILD = "build it with `pip install -e .` in the source folder"


def compiled(folder: Path, source: str) -> Path:
    (folder / "library.c").write_text(source)
    target = folder / "library.so"
    command = (sys.executable, "-m", "ziglang", "cc", "-shared", "-fPIC", "-O1", "-o")
    subprocess.run([*command, target, folder / "library.c"], check=True, timeout=240)
    return target


def source_with(*, abi: int, exit_bytes: int) -> str:
    """Return a library with every function that the loader declares, all empty."""
    known = {"ta_abi_version", "ta_struct_bytes"}
    names = set(_native._PROTOTYPES) | set(_native._ARM64_PROTOTYPES)
    sizes = {name: ctypes.sizeof(each) for name, each in _native._STRUCTURES.items()}
    sizes["ta_exit"] = exit_bytes
    return "\n".join(
        [
            "#include <string.h>",
            f"unsigned ta_abi_version(void) {{ return {abi}; }}",
            "size_t ta_struct_bytes(const char *name) {",
            *(f'    if (!strcmp(name, "{name}")) return {size};' for name, size in sizes.items()),
            "    return 0;",
            "}",
            *(f"void {name}(void) {{}}" for name in sorted(names - known)),
        ]
    )


def test_load_struct_of_another_size_is_rejected_by_the_structs_name(tmp_path: Path) -> None:
    # As large as another struct of the interface: a check by size alone does not see it.
    other = _native.library().ta_struct_bytes(b"ta_page_stream")
    mine = _native.library().ta_struct_bytes(b"ta_exit")
    path = compiled(tmp_path, source_with(abi=_native.ABI_VERSION, exit_bytes=other))

    with pytest.raises(NativeLibraryError) as caught:
        _native.load(path)

    assert str(caught.value).startswith(
        f"cannot use {path}: struct ta_exit has {other} bytes there and {mine} here"
    )
    assert str(caught.value).endswith(f"; {REBUILD}")


def test_load_another_abi_version_is_rejected_before_anything_else_is_asked(
    tmp_path: Path,
) -> None:
    path = compiled(tmp_path, "unsigned ta_abi_version(void) { return 3; }")

    with pytest.raises(NativeLibraryError) as caught:
        _native.load(path)

    expected = f"cannot use {path}: its ABI version is 3, not {_native.ABI_VERSION}; {REBUILD}"
    assert str(caught.value) == expected


def test_load_what_is_no_library_is_rejected_by_path(tmp_path: Path) -> None:
    missing, text = tmp_path / "none.so", tmp_path / "text.so"
    text.write_text("no library")
    for path in (missing, text):
        with pytest.raises(NativeLibraryError, match=rf"cannot load {path}: .*; {REBUILD}"):
            _native.load(path)


def test_struct_sizes_agree_by_name() -> None:
    size = _native.library().ta_struct_bytes

    assert size(b"ta_tag_run") == TAG_RUN.itemsize
    assert size(b"ta_segment") == 16
    assert size(b"ta_file_write") == 24
    assert size(b"ta_no_such") == 0
