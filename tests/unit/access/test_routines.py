"""The blob's index: what is there, and what a damaged one says."""

import struct
from itertools import pairwise

import pytest

from tagalong._native import LIBRARY_FOLDER
from tagalong.access.routines import Routine, load_blob, parse_blob
from tagalong.disassembly import disassemble
from tagalong.errors import NativeLibraryError


def code() -> bytearray:
    return bytearray((LIBRARY_FOLDER / "routines.bin").read_bytes())


def test_blob_has_every_routine_within_its_bytes_and_apart() -> None:
    blob = load_blob()

    ranges = sorted((blob.offsets[r], blob.offsets[r] + blob.sizes[r]) for r in Routine)
    assert ranges[-1][1] <= len(blob.code)
    assert all(first[1] <= second[0] for first, second in pairwise(ranges))
    assert all(start % 16 == 0 for start, _ in ranges)


def test_every_routine_ends_with_ret_and_touches_no_vector_register() -> None:
    blob = load_blob()
    for routine in Routine:
        start, size = blob.offsets[routine], blob.sizes[routine]
        words = struct.unpack_from(f"<{size // 4}I", blob.code, start)
        text = [disassemble(word, start + 4 * at) for at, word in enumerate(words)]

        assert text[-1] == "ret"
        registers = {part.strip(" ,[]!") for line in text for part in line.split()}
        assert not any(r[:1] in "qvdsb" and r[1:].isdigit() for r in registers), routine


def test_unchecked_routines_access_the_guest_as_they_must() -> None:
    blob = load_blob()

    def text(routine: Routine) -> str:
        start, size = blob.offsets[routine], blob.sizes[routine]
        words = struct.unpack_from(f"<{size // 4}I", blob.code, start)
        return "\n".join(disassemble(word, start + 4 * at) for at, word in enumerate(words))

    assert "msr tco" in text(Routine.COPY_TCO).lower()
    assert "ldp x4, x5, [sp]" in text(Routine.SP_LOAD)
    assert "ldp x4, x5, [x1" not in text(Routine.SP_LOAD)
    assert "stp x4, x5, [x0" not in text(Routine.SP_STORE)
    assert "st2g" in text(Routine.WRITE_TAGS)
    assert "stz2g" in text(Routine.WRITE_ZEROS)
    assert "ldgm" not in text(Routine.READ_TAGS)


def test_blob_truncated_anywhere_is_refused_with_its_offset() -> None:
    whole = bytes(code())
    for length in range(len(whole)):
        with pytest.raises(NativeLibraryError, match="routines offset 0x"):
            parse_blob(whole[:length])


@pytest.mark.parametrize(
    ("at", "value", "said"),
    [
        (0, b"X", "routines offset 0x0: magic"),
        (8, b"\xff\xff\xff\xff", "routines offset 0x8: 4294967295 entries do not fit in"),
        (16 + 24, b"\xff\xff\xff\x7f", "routines offset 0x10: a routine at 0x7fffffff"),
        (16 + 28, b"\xff\xff\xff\xff", r"routines offset 0x10: a routine at 0x\w+\+0xffffffff of"),
        (16, b"other", r"routines: there are \['copy_tco'.*'othe?r.*: rebuild the package"),
        (8, b"\x01\0\0\0", r"routines: there are \['copy'\]: rebuild the package"),
    ],
)
def test_damaged_index_is_refused(at: int, value: bytes, said: str) -> None:
    damaged = code()
    damaged[at : at + len(value)] = value

    with pytest.raises(NativeLibraryError, match=said):
        parse_blob(bytes(damaged))


def test_flipped_bits_never_do_more_than_refuse() -> None:
    whole = code()
    for bit in range(8 * (16 + 32 * len(Routine))):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            blob = parse_blob(bytes(damaged))
        except NativeLibraryError:
            continue
        assert all(blob.offsets[r] + blob.sizes[r] <= len(blob.code) for r in Routine)
