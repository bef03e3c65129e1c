"""What a command says when it fails: a line for people, and an object for scripts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from tagalong._lazy import module_when_used
from tagalong.errors import MigrationStage, TagalongError, UsageError, with_causes

if TYPE_CHECKING:
    import json
    from collections.abc import Sequence

    from tagalong.control.interrupted import Interrupted
else:
    json = module_when_used("json")


def error_line(error: TagalongError) -> str:
    """Return one line: what failed, then each cause that adds something."""
    return f"tagalong: error: {with_causes(error)}"


def failure_json(error: TagalongError | Interrupted | click.ClickException) -> str:
    """Return what a command with --json prints when it fails.

    `class` names a class of tagalong.errors, or Interrupted. `stage`: how far a migration was,
    null for everything else. `advice`: what to do, a sentence or two per item.
    """
    if isinstance(error, click.ClickException):
        name, status, message = UsageError.__name__, error.exit_code, error.format_message()
    else:
        name = getattr(error, "class_name", type(error).__name__)
        status = error.exit_code
        message = with_causes(error) if isinstance(error, TagalongError) else str(error)
    stage = getattr(error, "stage", None)
    fields = {
        "class": name,
        "exit_status": status,
        "message": message,
        "stage": stage.value if isinstance(stage, MigrationStage) else None,
        "advice": [*getattr(error, "__notes__", ())],
    }
    return json.dumps({"error": fields}, indent=2)


def wants_json(arguments: Sequence[str]) -> bool:
    """Return whether a command line asks for JSON, whatever is wrong with the rest of it.

    What follows `--`, and what `lab run` runs, is somebody else's command line.
    """
    own = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return "--json" in own and [*own[:2]] != ["lab", "run"]
