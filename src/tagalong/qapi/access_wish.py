"""The access strategy that a command asks for: QMP's `x-access`, and its form in reports."""

from collections.abc import Mapping

from tagalong.access import ACCESS_NAMES
from tagalong.machine import AccessChoice
from tagalong.qapi.json_fields import JsonFields, text
from tagalong.qmp.messages import JsonObject, QmpError


def access_argument(arguments: JsonObject) -> str | None:
    """Return the access strategy that `x-access` names, None without one. Raises QmpError."""
    name = arguments.get("x-access")
    if name is None:
        return None
    if name not in ACCESS_NAMES:
        raise QmpError(f"Parameter 'x-access' expects one of {', '.join(ACCESS_NAMES)}")
    return str(name)


def access_to_argument(access: str | None) -> Mapping[str, object]:
    """Return the argument for a command; none for None."""
    return {} if access is None else {"x-access": access}


def access_to_report(choice: AccessChoice | None) -> Mapping[str, object]:
    """Return the members of a report that name the access strategy; none for None."""
    return {} if choice is None else {"access": choice.name, "access_reason": choice.reason}


def access_of_report(members: JsonFields) -> AccessChoice | None:
    """Return the access strategy that a report names. Raises ControlError."""
    name = members.read_optional("access", text)
    return None if name is None else AccessChoice(name, members.read("access_reason", text))
