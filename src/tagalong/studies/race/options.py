"""The options of `tagalong race`, by name and by file, and the races that they mean."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Final

from tagalong.access.choice import STRATEGIES
from tagalong.errors import UsageError
from tagalong.mte.registers import TagCheckMode
from tagalong.studies.race.code import GuestCode, Order
from tagalong.studies.race.code_file import read_words
from tagalong.studies.race.explore import Method
from tagalong.studies.race.guests import guest_code
from tagalong.studies.race.report import RaceReport
from tagalong.studies.race.run import Race, run_race

ALL: Final = "all"
ACCESS_NAMES: Final = (*STRATEGIES, ALL)
DEFAULT_GUEST: Final = "retag"

METHODS: Final[Mapping[str, Method]] = MappingProxyType({m.name.lower(): m for m in Method})
MODES: Final[Mapping[str, TagCheckMode]] = MappingProxyType(
    {mode.name.lower(): mode for mode in TagCheckMode}
)
ORDERS: Final[Mapping[str, Order]] = MappingProxyType(
    {order.value.replace(" ", "-"): order for order in Order}
)


@dataclass(frozen=True)
class RaceOptions:
    """The options of `tagalong race`; those that are names are keys of the tables here."""

    access: str | None = None
    vmm_code: Path | None = None
    guest: str | None = None
    guest_code: Path | None = None
    order: str = "tags-first"
    checking: str = "sync"
    method: str | None = None
    seed: int = 0


def run_races(options: RaceOptions) -> list[RaceReport]:
    """Run one race, or with access "all" one per strategy.

    Raises UsageError for options that contradict each other and for files that hold no code,
    and whatever `run_race` raises.
    """
    race = Race(
        _guest(options),
        options.access,
        () if options.vmm_code is None else _own_words(options.vmm_code),
        ORDERS[options.order],
        MODES[options.checking],
        None if options.method is None else METHODS[options.method],
        options.seed,
    )
    names = [*STRATEGIES] if options.access == ALL else [options.access]
    return [run_race(replace(race, access=name)) for name in names]


def _own_words(path: Path) -> tuple[int, ...]:
    words = read_words(path)
    if not words:
        raise UsageError(f"cannot race {path}: the file holds no instruction")
    return words


def _guest(options: RaceOptions) -> GuestCode:
    if options.guest_code is None:
        return guest_code(options.guest or DEFAULT_GUEST)
    if options.guest is not None:
        raise UsageError("--guest and --guest-code exclude each other; give one of them")
    return GuestCode(options.guest_code.name, read_words(options.guest_code))
