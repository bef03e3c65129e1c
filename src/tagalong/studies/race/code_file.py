"""Reads a user's own instruction sequence from a file: A64 words or assembly."""

import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from tagalong.errors import HostError, UsageError
from tagalong.studies.race.code import MAX_WORDS

_WORD_BYTES: Final = 4
_ASSEMBLY: Final = (".s", ".S")
_TARGET: Final = ("-target", "aarch64-freestanding-none", "-mcpu=generic+v8_5a+mte")
_FILE_BYTES_MAX: Final = 1 << 16


def read_words(path: Path) -> tuple[int, ...]:
    """Return the instructions in a file.

    NAME.s and NAME.S are assembly and need the package `ziglang`. NAME.bin is little-endian
    words. Any other file is text: words in hex, with comments from `#` or `;` to the end of the
    line. Raises HostError for a file that cannot be read, UsageError for one that is none of
    these, is too long or does not assemble.
    """
    content = _read(path)
    if path.suffix in _ASSEMBLY:
        return _split(path, _assemble(path))
    if path.suffix == ".bin":
        return _split(path, content)
    return _checked(path, _parse_hex(path, content))


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(_FILE_BYTES_MAX + 1)
    except OSError as error:
        raise HostError(f"cannot read the code in {path}: {error.strerror}") from error
    if len(content) > _FILE_BYTES_MAX:
        raise UsageError(
            f"cannot race {path}: it is longer than {_FILE_BYTES_MAX} bytes; a sequence has at "
            f"most {MAX_WORDS} instructions"
        )
    return content


def _split(path: Path, code: bytes) -> tuple[int, ...]:
    if len(code) % _WORD_BYTES:
        raise UsageError(
            f"cannot race {path}: {len(code)} bytes of code are not a multiple of 4, the size of "
            "an instruction"
        )
    words = (code[at : at + _WORD_BYTES] for at in range(0, len(code), _WORD_BYTES))
    return _checked(path, [int.from_bytes(word, "little") for word in words])


def _checked(path: Path, words: list[int]) -> tuple[int, ...]:
    if len(words) > MAX_WORDS:
        raise UsageError(
            f"cannot race {path}: it has {len(words)} instructions; the limit is {MAX_WORDS}"
        )
    return tuple(words)


def _parse_hex(path: Path, content: bytes) -> list[int]:
    lines = content.decode("utf-8", "replace").splitlines()
    return [
        _parse_word(f"{path}:{number}", text)
        for number, line in enumerate(lines, 1)
        for text in line.replace(";", "#").split("#")[0].split()
    ]


def _parse_word(where: str, text: str) -> int:
    try:
        word = int(text, 16)
    except ValueError:
        word = -1
    if not 0 <= word < 1 << 32:
        raise UsageError(
            f"{where}: {text!r} is not a 32-bit instruction in hex, such as d503201f; assembly "
            "goes into a file named *.S"
        )
    return word


def _assemble(path: Path) -> bytes:
    if importlib.util.find_spec("ziglang") is None:
        raise UsageError(
            f"cannot assemble {path}: the package ziglang is not installed; install it, or give "
            "the instructions in hex or as a .bin file"
        )
    with tempfile.TemporaryDirectory(prefix="tagalong-") as folder:
        _zig(path, "cc", *_TARGET, "-c", str(path.absolute()), "-o", f"{folder}/code.o")
        _zig(path, "objcopy", "-O", "binary", f"{folder}/code.o", f"{folder}/code.bin")
        return (Path(folder) / "code.bin").read_bytes()


def _zig(path: Path, *arguments: str) -> None:
    command = (sys.executable, "-m", "ziglang", *arguments)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UsageError(f"cannot assemble {path}:\n{done.stderr.strip()}")
