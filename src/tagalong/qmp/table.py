"""A table of commands: finds one by name and checks what it was given."""

from collections.abc import Mapping
from typing import Protocol, TypeVar

from tagalong.qmp.arguments import Argument, check_arguments
from tagalong.qmp.messages import ErrorClass, JsonObject, QmpError
from tagalong.qmp.session import NEGOTIATE


class Command(Protocol):
    """What a table holds of each command."""

    @property
    def arguments(self) -> Mapping[str, Argument]:
        """Return the arguments that the command takes, by name."""
        ...


_C = TypeVar("_C", bound=Command)


def find_command(table: Mapping[str, _C], name: str, arguments: JsonObject) -> _C:
    """Return the command `name` if it takes `arguments`.

    Raises QmpError: COMMAND_NOT_FOUND for a name that the table does not have, else as
    check_arguments.
    """
    command = table.get(name)
    if command is None:
        raise QmpError(
            f"The command {name} has not been found", error_class=ErrorClass.COMMAND_NOT_FOUND
        )
    check_arguments(arguments, command.arguments)
    return command


def command_names(table: Mapping[str, object]) -> list[JsonObject]:
    """Return what query-commands answers: all names, the negotiation's among them."""
    return [{"name": name} for name in sorted([*table, NEGOTIATE])]
