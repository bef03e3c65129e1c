"""What goes from the checkout into the lab."""

from pathlib import Path

from tagalong.lab.bytecode import HOST_PYTHON
from tagalong.lab.checkout import all_files, find_checkout, native_sources, write
from tests.support.cpio_reader import read_by_path

ROOT = Path(__file__).parents[3]


def test_find_checkout_is_this_one() -> None:
    assert find_checkout() == ROOT


def test_all_files_are_sources_and_tests_and_nothing_that_was_built() -> None:
    names = {str(file.relative_to(ROOT)) for file in all_files(ROOT)}

    assert {"pyproject.toml", "src/tagalong/errors.py", "tests/conftest.py"} <= names
    assert not any("_lib" in name or "__pycache__" in name for name in names)


def test_native_sources_are_what_the_toolchain_reads() -> None:
    names = {str(file.relative_to(ROOT)) for file in native_sources(ROOT)}

    assert {"native/toolchain.py", "native/tags.c", "guests/guest.ld"} <= names


def test_write_puts_code_byte_code_library_and_command_in_place(tmp_path: Path) -> None:
    built = tmp_path / "built"
    built.mkdir()
    (built / "linux").mkdir()
    for name in ("libtagalong.so", "churn.elf", "record.json", "linux/tagkeeper"):
        (built / name).write_bytes(name.encode())
    files = [ROOT / "src" / "tagalong" / "errors.py", ROOT / "tests" / "unit" / "test_layers.py"]

    write(ROOT, files, built, tmp_path / "checkout.cpio", python=HOST_PYTHON)

    entries = read_by_path((tmp_path / "checkout.cpio").read_bytes())
    library = entries["tagalong/src/tagalong/_lib/libtagalong.so"]
    assert (library.data, library.mode & 0o111) == (b"libtagalong.so", 0o111)
    assert entries["tagalong/src/tagalong/_lib/churn.elf"].data == b"churn.elf"
    assert entries["tagalong/src/tagalong/_lib/linux/tagkeeper"].data == b"linux/tagkeeper"
    assert entries["tagalong/src/tagalong/errors.py"].data == files[0].read_bytes()
    assert b"from tagalong.cli import main" in entries["opt/tagalong/bin/tagalong"].data
    compiled = [path for path in entries if path.endswith(".pyc")]
    assert len(compiled) == 1
    assert compiled[0].startswith("tagalong/src/tagalong/__pycache__/errors.")
    assert not any("record.json" in path for path in entries)
