"""Members of a JSON object from a peer that may be hostile: types, ranges, lengths, characters."""

import math
import re
from collections.abc import Callable

import pytest

from tagalong.errors import ControlError
from tagalong.printable import MAX_TEXT_CHARACTERS, printable
from tagalong.qapi.json_fields import (
    JsonFields,
    array_of,
    boolean,
    fields,
    integer,
    number,
    one_of,
    text,
)


def read(value: object, reader: Callable[[object, str], object]) -> object:
    return JsonFields({"member": value}, "query-x").read("member", reader)


def test_member_of_the_right_type_is_returned() -> None:
    cases: list[tuple[object, Callable[[object, str], object], object]] = [
        (0, integer, 0),
        ((1 << 64) - 1, integer, (1 << 64) - 1),
        (3, number, 3.0),
        (0.25, number, 0.25),
        (True, boolean, True),
        ("word", text, "word"),
        ([1, 2], array_of(integer), (1, 2)),
        ("b", one_of({"a": 1, "b": 2}), 2),
    ]

    for value, reader, expected in cases:
        assert read(value, reader) == expected


def test_member_of_another_type_or_out_of_range_is_an_error_that_names_it() -> None:
    cases: list[tuple[object, Callable[[object, str], object], str]] = [
        (-1, integer, "an integer of 64 bits without a sign, the VM said -1"),
        (1 << 64, integer, "an integer of 64 bits"),
        (True, integer, "an integer of 64 bits without a sign, the VM said True"),
        (1.0, integer, "an integer of 64 bits"),
        ("1", integer, "an integer of 64 bits without a sign, the VM said '1'"),
        (math.inf, number, "a finite number of at least 0"),
        (math.nan, number, "a finite number of at least 0"),
        (-0.5, number, "a finite number of at least 0"),
        (False, number, "a finite number of at least 0"),
        (10**400, number, "a finite number of at least 0"),
        (1, boolean, "a boolean, the VM said 1"),
        (b"word", text, "a string"),
        (None, text, "a string, the VM said None"),
        ({}, array_of(integer), "an array of at most 1000000 elements"),
        ("c", one_of({"a": 1, "b": 2}), "one of a, b, the VM said 'c'"),
        ([], one_of({"a": 1}), "one of a, the VM said []"),
        ([], fields, "an object, the VM said []"),
    ]

    for value, reader, words in cases:
        with pytest.raises(ControlError, match=re.escape(f"query-x: 'member': expected {words}")):
            read(value, reader)


def test_element_of_an_array_is_named_by_its_index() -> None:
    with pytest.raises(ControlError, match=r"^query-x: 'member'\[1\]: expected an integer"):
        read([1, "2"], array_of(integer))


def test_answer_that_is_no_object_is_an_error() -> None:
    with pytest.raises(ControlError, match=r"^query-x: expected an object, the VM said 5$"):
        JsonFields(5, "query-x")


def test_missing_member_is_an_error_unless_it_is_optional() -> None:
    members = JsonFields({"empty": None}, "query-x")

    with pytest.raises(ControlError, match=r"^query-x has no member 'other'$"):
        members.read("other", integer)
    assert members.read_optional("other", integer) is None
    assert members.read_optional("empty", integer) is None


def test_text_is_cut_and_has_nothing_that_a_terminal_obeys() -> None:
    cases = {
        "a\x1b[2Jb": "a\ufffd[2Jb",
        "a\u202eb\u2028c": "a\ufffdb\ufffdc",
        "a\nb\x00c\udc80": "a\ufffdb\ufffdc\ufffd",
        "größer 中": "größer 中",
        "x" * (MAX_TEXT_CHARACTERS + 1): "x" * MAX_TEXT_CHARACTERS + "...",
    }

    for said, shown in cases.items():
        assert printable(said) == shown
        assert read(said, text) == shown


def test_error_about_a_huge_value_is_short() -> None:
    with pytest.raises(ControlError) as caught:
        read("x" * 1_000_000, integer)

    assert len(str(caught.value)) < 300
