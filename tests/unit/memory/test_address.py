"""Checks of gpa ranges."""

import pytest

from tagalong.errors import AddressError
from tagalong.memory import Gpa
from tagalong.memory.address import check_range


@pytest.mark.parametrize(
    ("gpa", "length", "alignment"), [(0, 0, 4096), (3, 5, 1), (0x1000, 0x3000, 0x1000)]
)
def test_check_range_aligned_range_passes(gpa: int, length: int, alignment: int) -> None:
    check_range(Gpa(gpa), length, alignment)


@pytest.mark.parametrize(
    ("gpa", "length", "alignment", "message"),
    [
        (-1, 1, 1, r"^gpa -0x1 is negative$"),
        (0, -1, 1, r"^length -0x1 is negative$"),
        (0x1010, 0x1000, 0x1000, r"^gpa 0x1010 is not a multiple of 0x1000$"),
        (0x1000, 0x30, 0x20, r"^length 0x30 is not a multiple of 0x20$"),
        (
            (1 << 52) - 0x1000,
            0x1001,
            1,
            r"^gpa range 0xffffffffff000 \+ 0x1001 ends above the largest gpa, 0xfffffffffffff$",
        ),
    ],
)
def test_check_range_impossible_range_is_refused(
    gpa: int, length: int, alignment: int, message: str
) -> None:
    with pytest.raises(AddressError, match=message):
        check_range(Gpa(gpa), length, alignment)


def test_check_range_up_to_the_largest_gpa_passes() -> None:
    check_range(Gpa((1 << 52) - 0x1000), 0x1000, 0x1000)
