"""The wish for an access strategy: as QMP's `x-access`, and in reports."""

from collections.abc import Mapping

from tagalong.access import ACCESS_NAMES
from tagalong.machine import AccessChoice
from tagalong.qmp.messages import JsonObject, QmpError


def access_argument(arguments: JsonObject) -> str | None:
    """Return the access strategy that `x-access` names, if it is given. Raises QmpError."""
    name = arguments.get("x-access")
    if name is None:
        return None
    if name not in ACCESS_NAMES:
        raise QmpError(f"Parameter 'x-access' expects one of {', '.join(ACCESS_NAMES)}")
    return str(name)


def to_argument(access: str | None) -> Mapping[str, object]:
    """Return the argument for a command, nothing if nobody wishes anything."""
    return {} if access is None else {"x-access": access}


def describe_access(choice: AccessChoice | None) -> Mapping[str, object]:
    """Return what a report says of the access strategy, nothing if none was asked for."""
    return {} if choice is None else {"access": choice.name, "access_reason": choice.reason}
