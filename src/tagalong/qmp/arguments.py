"""Checks a command's arguments against a small schema, with QEMU's error texts."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from tagalong.qmp.messages import JsonObject, QmpError


class ArgumentType(Enum):
    """The types an argument can have; the values are the words of the error text."""

    STRING = "string"
    INTEGER = "integer"
    BOOLEAN = "boolean"
    ARRAY = "array"


_PYTHON_TYPES = {
    ArgumentType.STRING: str,
    ArgumentType.INTEGER: int,
    ArgumentType.BOOLEAN: bool,
    ArgumentType.ARRAY: list,
}


@dataclass(frozen=True)
class Argument:
    """One argument of a command."""

    type: ArgumentType
    required: bool = False


def check_arguments(arguments: JsonObject, schema: Mapping[str, Argument]) -> None:
    """Raise QmpError if an argument is missing, unknown or of another type."""
    for name, argument in schema.items():
        if argument.required and name not in arguments:
            raise QmpError(f"Parameter '{name}' is missing")
    for name, value in arguments.items():
        if name not in schema:
            raise QmpError(f"Parameter '{name}' is unexpected")
        if not _is_a(value, schema[name].type):
            wanted = schema[name].type.value
            raise QmpError(f"Invalid parameter type for '{name}', expected: {wanted}")


def _is_a(value: object, wanted: ArgumentType) -> bool:
    # Python's bool is an int, JSON's is not.
    if isinstance(value, bool):
        return wanted is ArgumentType.BOOLEAN
    return isinstance(value, _PYTHON_TYPES[wanted])
