"""What a setting is: its type and range in QMP's words, its option, and where it goes.

A setting is declared once, in settings.MigrationSettings. From that one declaration come the
parameter or capability of QMP, the option of `tagalong migrate` and the field of MigrationOptions.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from tagalong.qmp.arguments import ArgumentType
from tagalong.qmp.messages import QmpError


class Unit(Enum):
    """What a number counts; the values are words of an error text."""

    SECONDS = " seconds"
    MILLISECONDS = " milliseconds"
    BYTES_PER_S = " bytes/second"
    NONE = ""


@dataclass(frozen=True)
class IntegerRange:
    """An integer from `least` to `most`."""

    least: int
    most: int
    unit: Unit = Unit.NONE
    argument_type: ArgumentType = ArgumentType.INTEGER

    def check(self, name: str, value: object) -> None:
        """Raise QmpError, in QEMU's words, unless `value` is one of these."""
        is_integer = isinstance(value, int) and not isinstance(value, bool)
        if not is_integer or not self.least <= value <= self.most:  # type: ignore[operator]
            raise QmpError(
                f"Parameter '{name}' expects an integer in the range of "
                f"{self.least} to {self.most}{self.unit.value}"
            )


AUTO = "auto"
"""In place of a number: the command finds the right one."""


@dataclass(frozen=True)
class CountOrAuto:
    """An option's number from `least` to `most`, or AUTO; a parameter of QMP is never one."""

    least: int
    most: int


@dataclass(frozen=True)
class OneOf:
    """One of several words."""

    words: tuple[str, ...]
    argument_type: ArgumentType = ArgumentType.STRING

    def check(self, name: str, value: object) -> None:
        """Raise QmpError, in QEMU's words, unless `value` is one of these."""
        if value not in self.words:
            raise QmpError(f"Parameter '{name}' does not accept value '{value}'")


@dataclass(frozen=True)
class FreeText:
    """A text without NUL; `is_folder`: the path of a folder."""

    is_folder: bool = False
    argument_type: ArgumentType = ArgumentType.STRING

    def check(self, name: str, value: object) -> None:
        """Raise QmpError unless `value` is one of these."""
        if not isinstance(value, str) or "\0" in value:
            raise QmpError(f"Parameter '{name}' expects a text without NUL")


@dataclass(frozen=True)
class Switch:
    """On or off: a capability of QMP, not a parameter."""

    argument_type: ArgumentType = ArgumentType.BOOLEAN

    def check(self, name: str, value: object) -> None:
        """Raise QmpError, in QEMU's words, unless `value` is a boolean."""
        if not isinstance(value, bool):
            raise QmpError(f"Invalid parameter type for '{name}', expected: boolean")


KnobType = IntegerRange | OneOf | FreeText | Switch


@dataclass(frozen=True)
class OptionForm:
    """How `tagalong migrate` offers a setting: `flag` as in --max-downtime."""

    flag: str
    help: str
    metavar: str | None = None


@dataclass(frozen=True)
class Knob:
    """One setting; its name and default are those of the field that it annotates.

    `goes_to` is the field of MigrationOptions that it sets by itself, with `convert`; None for one
    that counts only together with others.
    """

    type: KnobType
    option: OptionForm | None = None
    goes_to: str | None = None
    convert: Callable[[Any], object] = lambda value: value


@dataclass(frozen=True)
class CommandOption:
    """An option of `tagalong migrate`; `settings` are the fields that a value sets."""

    form: OptionForm
    type: KnobType | CountOrAuto
    default: object
    settings: Callable[[Any], Mapping[str, object]]

    @property
    def parameter(self) -> str:
        """Return its name as a Python identifier."""
        return self.form.flag.removeprefix("--").replace("-", "_")
