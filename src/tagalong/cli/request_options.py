"""Options of the commands that migrate a VM, or save it, or read what was saved."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from tagalong.cli.values import FOLDER, SIZE, IntegerOrWord, Milliseconds
from tagalong.qapi.knobs import (
    AUTO,
    CommandOption,
    CountOrAuto,
    FreeText,
    IntegerRange,
    KnobType,
    OneOf,
    Switch,
    Unit,
)
from tagalong.qapi.saving import SPACES
from tagalong.qapi.settings import COMMAND_OPTIONS

_F = TypeVar("_F", bound=Callable[..., Any])


def space_options(command: _F) -> _F:
    """Add the options that say what the addresses of a core are."""
    for option in (
        click.option(
            "--vcpu",
            type=click.IntRange(min=0),
            default=0,
            show_default=True,
            help="Whose translation tables to walk for virtual addresses.",
        ),
        click.option(
            "--space",
            type=click.Choice(tuple(SPACES)),
            default=next(iter(SPACES)),
            show_default=True,
            help="What addresses are: guest physical, or virtual by TTBR1_EL1 or TTBR0_EL1.",
        ),
    ):
        command = option(command)
    return command


def migration_options(command: _F) -> _F:
    """Add the options of a migration's settings, from the one table of settings."""
    for option in reversed(COMMAND_OPTIONS):
        command = _option(option, option.parameter, option.form.help)(command)
    return command


def max_downtime_option(name: str, help_text: str | None = None) -> Callable[[_F], _F]:
    """Return the option --max-downtime, which a command takes as its parameter `name`."""
    option = next(each for each in COMMAND_OPTIONS if each.form.flag == "--max-downtime")
    return _option(option, name, help_text or option.form.help)


def _option(option: CommandOption, name: str, help_text: str) -> Callable[[_F], _F]:
    is_switch = isinstance(option.type, Switch)
    return click.option(
        option.form.flag,
        name,
        is_flag=is_switch,
        type=None if is_switch else _click_type(option.type),
        default=option.default,
        # A default of 0 or of nothing is one that the help text explains.
        show_default=bool(option.default) and not is_switch,
        metavar=option.form.metavar,
        help=help_text,
    )


def _click_type(knob: KnobType | CountOrAuto) -> Any:
    match knob:
        case IntegerRange(unit=Unit.BYTES_PER_S):
            return SIZE
        case IntegerRange(unit=Unit.MILLISECONDS):
            return Milliseconds(knob.least, knob.most)
        case IntegerRange():
            return click.IntRange(knob.least, knob.most)
        case CountOrAuto():
            return IntegerOrWord(knob.least, knob.most, AUTO)
        case OneOf():
            return click.Choice(knob.words)
    return FOLDER if isinstance(knob, FreeText) and knob.is_folder else str
