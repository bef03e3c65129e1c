"""QMP's messages as values: requests, replies, errors, events; bytes in, bytes out.

Forms and error texts follow QEMU (docs/interop/qmp-spec.rst), so that clients written for
QEMU recognise them. Output is ASCII only, one message a line.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from tagalong import __version__
from tagalong._lazy import module_when_used

if TYPE_CHECKING:
    import json
else:  # a VM without a control socket speaks to nobody
    json = module_when_used("json")

JsonObject = Mapping[str, object]

_SURROGATE = re.compile(r"[\ud800-\udfff]")

_MAX_DEPTH = 128

_REQUEST_MEMBERS = {"execute", "arguments", "id"}


class ErrorClass(Enum):
    """The classes of QMP errors that this server uses."""

    GENERIC = "GenericError"
    COMMAND_NOT_FOUND = "CommandNotFound"


class QmpError(Exception):
    """A request that is answered with QMP's error form; never leaves the control socket."""

    def __init__(
        self,
        description: str,
        *,
        error_class: ErrorClass = ErrorClass.GENERIC,
        request_id: object | None = None,
    ) -> None:
        self.description = description
        self.error_class = error_class
        self.request_id = request_id
        super().__init__(description)


@dataclass(frozen=True)
class QmpRequest:
    """A command as a client sent it; `request_id` is None without an id."""

    command: str
    arguments: JsonObject
    request_id: object | None


@dataclass(frozen=True)
class Event:
    """Something that happened to the VM; `time_us` is microseconds since the epoch."""

    name: str
    data: JsonObject | None = None
    time_us: int = field(default_factory=lambda: time.time_ns() // 1000)

    def to_json(self) -> dict[str, object]:
        """Return the event in QMP's form."""
        seconds, microseconds = divmod(self.time_us, 1_000_000)
        message: dict[str, object] = {
            "timestamp": {"seconds": seconds, "microseconds": microseconds},
            "event": self.name,
        }
        if self.data is not None:
            message["data"] = dict(self.data)
        return message


def parse_request(message: bytes) -> QmpRequest:
    """Return the request in `message`. Raises QmpError, with the id where one was given."""
    request = _parse_object(message)
    request_id = request.get("id")
    try:
        return QmpRequest(_command_of(request), _arguments_of(request), request_id)
    except QmpError as error:
        error.request_id = request_id
        raise


def _parse_object(message: bytes) -> dict[str, object]:
    try:
        request = json.loads(
            message.decode("utf-8"), parse_constant=_refuse_constant, parse_float=_finite
        )
        _check_values(request)
    except UnicodeDecodeError as error:
        raise QmpError(f"JSON parse error, invalid UTF-8 at byte {error.start}") from error
    except json.JSONDecodeError as error:
        reason = f"{error.msg} at character {error.pos}"
        raise QmpError(f"JSON parse error, {reason}") from error
    except RecursionError as error:
        raise QmpError("JSON nesting depth limit exceeded") from error
    except ValueError as error:  # see below; or an integer of thousands of digits
        raise QmpError(f"JSON parse error, {error}") from error
    if not isinstance(request, dict):
        raise QmpError("QMP input must be a JSON object")
    return request


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not a JSON value")


def _finite(literal: str) -> float:
    """Return a number that can be sent back: 1e999 would become Infinity, which is not JSON."""
    number = float(literal)
    if not math.isfinite(number):
        raise ValueError(f"the number {literal[:40]} is out of range")
    return number


def _check_values(request: object) -> None:
    """Raise ValueError for a text that no path, name or message can have, QmpError for depth.

    A NUL ends a path early in the kernel, and half a surrogate pair has no bytes at all: both would
    be met by whichever function uses the text first, each with an error of its own. What is nested
    too deeply could be read and then, as the id of a reply, not be written.
    """
    pending = [(request, 0)]
    while pending:
        value, depth = pending.pop()
        if depth > _MAX_DEPTH:
            raise QmpError("JSON nesting depth limit exceeded")
        if isinstance(value, str):
            _check_text(value)
        elif isinstance(value, dict):
            pending += [(part, depth + 1) for pair in value.items() for part in pair]
        elif isinstance(value, list):
            pending += [(part, depth + 1) for part in value]


def _check_text(text: str) -> None:
    if "\0" in text:
        raise ValueError("invalid escape \\u0000 in a string")
    if not text.isascii() and _SURROGATE.search(text):
        raise ValueError("half of a surrogate pair in a string")


def _command_of(request: JsonObject) -> str:
    for member in request:
        if member not in _REQUEST_MEMBERS:
            raise QmpError(f"QMP input member '{member}' is unexpected")
    if "execute" not in request:
        raise QmpError("QMP input lacks member 'execute'")
    command = request["execute"]
    if not isinstance(command, str):
        raise QmpError("QMP input member 'execute' must be a string")
    return command


def _arguments_of(request: JsonObject) -> JsonObject:
    arguments = request.get("arguments", {})
    if not isinstance(arguments, dict):
        raise QmpError("QMP input member 'arguments' must be an object")
    return arguments


def greeting() -> dict[str, object]:
    """Return the first message of every connection."""
    return {"QMP": {"version": version(), "capabilities": []}}


def version() -> dict[str, object]:
    """Return tagalong's version in the form of QEMU's query-version."""
    major, minor, micro = (int(part) for part in re.findall(r"\d+", __version__)[:3])
    return {
        "qemu": {"major": major, "minor": minor, "micro": micro},
        "package": f"tagalong {__version__}",
    }


def success(value: object, request_id: object | None) -> dict[str, object]:
    """Return the reply to a command that succeeded."""
    return _with_id({"return": value}, request_id)


def failure(error: QmpError) -> dict[str, object]:
    """Return the reply to a command that failed."""
    body = {"class": error.error_class.value, "desc": error.description}
    return _with_id({"error": body}, error.request_id)


def _with_id(reply: dict[str, object], request_id: object | None) -> dict[str, object]:
    return reply if request_id is None else {**reply, "id": request_id}


def encode(message: JsonObject) -> bytes:
    """Return `message` as one line of ASCII, ended as QEMU ends it."""
    return json.dumps(message, separators=(", ", ": "), allow_nan=False).encode("ascii") + b"\r\n"
