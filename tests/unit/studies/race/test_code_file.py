from pathlib import Path

import pytest

from tagalong.errors import HostError, UsageError
from tagalong.studies.race.code_file import read_words
from tests.support import a64

WORDS = (a64.ldg(4, 4), a64.hint(0))


def test_hex_file_gives_its_words_without_comments(tmp_path: Path) -> None:
    file = tmp_path / "look.hex"
    file.write_text("# a look\nd9600084 0xD503201F ; nop\n\n")

    assert read_words(file) == WORDS


def test_binary_file_gives_little_endian_words(tmp_path: Path) -> None:
    file = tmp_path / "look.bin"
    file.write_bytes(b"".join(word.to_bytes(4, "little") for word in WORDS))

    assert read_words(file) == WORDS


@pytest.mark.parametrize("suffix", ["S", "s"])
def test_assembly_is_assembled(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"look.{suffix}"
    file.write_text("    ldg x4, [x4]\n1:  nop\n    b 1b\n")

    assert read_words(file) == (*WORDS, a64.b(-4))


def test_assembly_that_is_wrong_is_refused_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "bad.S"
    file.write_text("    nop\n    bogus x1\n")

    with pytest.raises(UsageError, match=r"(?s)cannot assemble .*bad.S:.*bad.S:2:.*unrecognized"):
        read_words(file)


def test_assembly_without_an_assembler_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "look.S"
    file.write_text("    nop\n")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)

    with pytest.raises(UsageError, match=r"the package ziglang is not installed"):
        read_words(file)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.bin", b"\0\0\0", "3 bytes of code are not a multiple of 4"),
        ("a.bin", bytes(4 * 257), "it has 257 instructions; the limit is 256"),
        ("a.hex", b"0 " * 257, "it has 257 instructions; the limit is 256"),
        ("a.hex", b"nop\n", r"a.hex:1: 'nop' is not a 32-bit instruction in hex"),
        ("a.hex", b"1\n-1\n", r"a.hex:2: '-1' is not a 32-bit instruction in hex"),
        ("a.hex", b"100000000", "'100000000' is not a 32-bit instruction in hex"),
        ("a.txt", b"\xff\xfe", "is not a 32-bit instruction in hex"),
        ("a.hex", b"#" * 70000, "it is longer than 65536 bytes"),
    ],
)
def test_file_that_is_no_code_is_refused(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    file = tmp_path / name
    file.write_bytes(content)

    with pytest.raises(UsageError, match=message):
        read_words(file)


def test_file_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"cannot read the code in .*missing.hex: No such file"):
        read_words(tmp_path / "missing.hex")
