"""Reads a JSON value that a peer sent: every type, every range and every length is checked.

The socket's other end is whatever listens there. A client that took `info["total"]` at its word
would fail with a KeyError or a TypeError in the middle of its work, or print escape sequences to
the operator's terminal. So each member is read by a function that names what it found instead.
"""

import math
from collections.abc import Callable, Mapping
from typing import Final, TypeVar

from tagalong.errors import ControlError
from tagalong.printable import printable

T = TypeVar("T")

MAX_ELEMENTS: Final = 1_000_000

_MAX_INTEGER: Final = (1 << 64) - 1

JsonReader = Callable[[object, str], T]
"""Returns the typed value of a JSON value, whose name is the second argument."""


class JsonFields:
    """The members of a JSON object; `what` names it in errors.

    Raises ControlError if `value` is no object.
    """

    def __init__(self, value: object, what: str) -> None:
        if not isinstance(value, Mapping):
            raise _unexpected(what, "an object", value)
        self._members = value
        self._what = what

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def read(self, name: str, reader: JsonReader[T]) -> T:
        """Return the member `name`. Raises ControlError if it is missing or of another type."""
        if name not in self._members:
            raise ControlError(f"{self._what} has no member '{name}'")
        return reader(self._members[name], f"{self._what}: '{name}'")

    def read_optional(self, name: str, reader: JsonReader[T]) -> T | None:
        """Return the member `name`, None if it is missing or null. Raises as `read`."""
        if self._members.get(name) is None:
            return None
        return self.read(name, reader)


def anything(value: object, _what: str) -> object:
    """Return a value that is checked later."""
    return value


def integer(value: object, what: str) -> int:
    """Return an integer from 0 to 2^64 - 1."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MAX_INTEGER:
        raise _unexpected(what, "an integer of 64 bits without a sign", value)
    return value


def number(value: object, what: str) -> float:
    """Return a finite number that is not negative."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 <= value <= _MAX_INTEGER or not math.isfinite(value):  # type: ignore[operator,arg-type]
        raise _unexpected(what, "a finite number of at least 0", value)
    return float(value)  # type: ignore[arg-type]


def boolean(value: object, what: str) -> bool:
    """Return true or false."""
    if not isinstance(value, bool):
        raise _unexpected(what, "a boolean", value)
    return value


def text(value: object, what: str) -> str:
    """Return a text that can be shown: cut to 4096 characters, nothing invisible in it."""
    if not isinstance(value, str):
        raise _unexpected(what, "a string", value)
    return printable(value)


def fields(value: object, what: str) -> JsonFields:
    """Return an object's members."""
    return JsonFields(value, what)


def array_of(reader: JsonReader[T]) -> JsonReader[tuple[T, ...]]:
    """Return a reader of arrays whose elements `reader` reads."""

    def read(value: object, what: str) -> tuple[T, ...]:
        if not isinstance(value, list) or len(value) > MAX_ELEMENTS:
            raise _unexpected(what, f"an array of at most {MAX_ELEMENTS} elements", value)
        return tuple(reader(each, f"{what}[{index}]") for index, each in enumerate(value))

    return read


def object_of(reader: JsonReader[T]) -> JsonReader[dict[str, T]]:
    """Return a reader of objects whose members `reader` reads, whatever their names are."""

    def read(value: object, what: str) -> dict[str, T]:
        if not isinstance(value, Mapping) or len(value) > MAX_ELEMENTS:
            raise _unexpected(what, f"an object of at most {MAX_ELEMENTS} members", value)
        return {text(name, what): reader(value[name], f"{what}: '{name}'") for name in value}

    return read


def one_of(values: Mapping[str, T]) -> JsonReader[T]:
    """Return a reader of strings that name one of `values`."""

    def read(value: object, what: str) -> T:
        if not isinstance(value, str) or value not in values:
            raise _unexpected(what, f"one of {', '.join(values)}", value)
        return values[value]

    return read


def _unexpected(what: str, expected: str, value: object) -> ControlError:
    found = printable(repr(value))[:100]
    return ControlError(f"{what}: expected {expected}, the VM said {found}")
