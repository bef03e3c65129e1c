"""What the small commands that control a VM have in common."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from tagalong.cli.values import FILE

_F = TypeVar("_F", bound=Callable[..., Any])


def control_argument(function: _F) -> _F:
    """Add the argument CONTROL, the control socket of a VM."""
    return click.argument("control", type=FILE)(function)


def json_option(help_text: str = "Print the answer as JSON.") -> Callable[[_F], _F]:
    """Return the option --json, which a command takes as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help=help_text)
