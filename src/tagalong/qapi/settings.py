"""The settings of migrations: QMP's migration parameters and capabilities, one declaration each.

Names, units and defaults are QEMU's (qapi/migration.json, MigrationParameters and
MigrationCapability) where QEMU has such a setting; the others are prefixed `x-`. There is one other
default: bandwidth is not limited, because most links carry nothing else. `multifd-compression`
counts for one connection, too.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Annotated, Any, Final, get_type_hints

from tagalong.machine import MAX_THROTTLE_PERCENT
from tagalong.migrate import (
    MAX_CHANNELS,
    MAX_COMPRESSION_LEVEL,
    MAX_RECONNECT_S,
    MIN_COMPRESSION_LEVEL,
    AutoConverge,
    Compression,
    CompressionMode,
    MigrationOptions,
    parse_compression,
)
from tagalong.qapi.knobs import (
    AUTO,
    CommandOption,
    CountOrAuto,
    FreeText,
    IntegerRange,
    Knob,
    OneOf,
    OptionForm,
    Switch,
    Unit,
)
from tagalong.qmp.arguments import Argument
from tagalong.qmp.messages import JsonObject, QmpError

MAX_DOWNTIME_LIMIT_MS: Final = 2_000_000
_MAX_ROUNDS: Final = 1_000_000
_MS_PER_S: Final = 1000.0

_PERCENT = IntegerRange(1, MAX_THROTTLE_PERCENT)
_BANDWIDTH = IntegerRange(0, (1 << 63) - 1, Unit.BYTES_PER_S)


def _none_for_zero(value: int) -> int | None:
    return value or None


@dataclass(frozen=True)
class MigrationSettings:
    """How a migration is to be made; each field is a parameter or a capability of QMP.

    A bandwidth of 0 stands for no limit, or for what is measured. `multifd_channels` counts only
    with `multifd`; without it there are as many connections as are right for both ends and the
    link. An `x_reconnect` of 0 does not reconnect.
    """

    downtime_limit: Annotated[
        int,
        Knob(
            IntegerRange(0, MAX_DOWNTIME_LIMIT_MS, Unit.MILLISECONDS),
            OptionForm(
                "--max-downtime",
                "Stop the guest only when the rest takes no longer than this.",
                "MS",
            ),
            goes_to="max_downtime_s",
            convert=lambda ms: ms / _MS_PER_S,
        ),
    ] = 300
    max_bandwidth: Annotated[
        int,
        Knob(
            _BANDWIDTH,
            OptionForm(
                "--max-bandwidth",
                "Send at most this much per second while the guest runs, as in 100M. "
                "Default: no limit.",
                "SIZE",
            ),
            goes_to="max_bandwidth",
            convert=_none_for_zero,
        ),
    ] = 0
    avail_switchover_bandwidth: Annotated[
        int,
        Knob(
            _BANDWIDTH,
            OptionForm(
                "--switchover-bandwidth",
                "Expect this much per second for the last pages. Default: what was measured.",
                "SIZE",
            ),
            goes_to="switchover_bandwidth",
            convert=_none_for_zero,
        ),
    ] = 0
    cpu_throttle_initial: Annotated[int, Knob(_PERCENT)] = 20
    cpu_throttle_increment: Annotated[int, Knob(_PERCENT)] = 10
    max_cpu_throttle: Annotated[int, Knob(_PERCENT)] = MAX_THROTTLE_PERCENT
    multifd_channels: Annotated[int, Knob(IntegerRange(1, MAX_CHANNELS))] = 2
    multifd_compression: Annotated[
        str, Knob(OneOf(tuple(mode.value for mode in CompressionMode)))
    ] = CompressionMode.NONE.value
    multifd_zstd_level: Annotated[
        int, Knob(IntegerRange(MIN_COMPRESSION_LEVEL, MAX_COMPRESSION_LEVEL))
    ] = 1
    tls_creds: Annotated[
        str,
        Knob(
            FreeText(is_folder=True),
            OptionForm(
                "--tls-dir",
                "Speak TLS, with ca-cert.pem, client-cert.pem and client-key.pem.",
                "FOLDER",
            ),
        ),
    ] = ""
    tls_hostname: Annotated[
        str,
        Knob(
            FreeText(),
            OptionForm(
                "--tls-hostname",
                "The name that the destination must prove. Default: the host in URI.",
                "NAME",
            ),
        ),
    ] = ""
    x_max_rounds: Annotated[
        int,
        Knob(
            IntegerRange(1, _MAX_ROUNDS),
            OptionForm(
                "--max-rounds",
                "Give up when the guest is still too fast after this many rounds.",
                "COUNT",
            ),
            goes_to="max_rounds",
        ),
    ] = 40
    x_reconnect: Annotated[
        int,
        Knob(
            IntegerRange(0, MAX_RECONNECT_S, Unit.SECONDS),
            OptionForm(
                "--reconnect",
                "When a connection breaks, try to reconnect for this long.",
                "SECONDS",
            ),
            goes_to="reconnect_s",
        ),
    ] = 0
    auto_converge: Annotated[
        bool,
        Knob(
            Switch(),
            OptionForm("--auto-converge", "Slow the guest down in steps if it is too fast."),
        ),
    ] = False
    multifd: Annotated[bool, Knob(Switch())] = False

    def options(self) -> MigrationOptions:
        """Return what they ask of a migration, without TLS."""
        throttling = AutoConverge(
            self.cpu_throttle_initial, self.cpu_throttle_increment, self.max_cpu_throttle
        )
        by_itself: dict[str, Any] = {
            knob.goes_to: knob.convert(getattr(self, name))
            for name, knob in KNOBS.items()
            if knob.goes_to is not None
        }
        return MigrationOptions(
            **by_itself,
            auto_converge=throttling if self.auto_converge else None,
            channels=self.multifd_channels if self.multifd else None,
            compression=Compression(
                CompressionMode(self.multifd_compression), self.multifd_zstd_level
            ),
        )

    def parameters(self) -> dict[str, object]:
        """Return what QMP's query-migrate-parameters answers."""
        return {name: getattr(self, _field(name)) for name in _PARAMETERS}

    def capabilities(self) -> list[dict[str, object]]:
        """Return what QMP's query-migrate-capabilities answers."""
        return [{"capability": name, "state": getattr(self, _field(name))} for name in CAPABILITIES]

    def with_parameters(self, arguments: JsonObject) -> "MigrationSettings":
        """Return a copy with these parameters changed.

        Raises QmpError, with QEMU's words, for a value that is out of range.
        """
        for name, value in arguments.items():
            _PARAMETERS[name].type.check(name, value)
        changes: dict[str, Any] = {_field(name): value for name, value in arguments.items()}
        return replace(self, **changes)

    def with_capabilities(self, wanted: object) -> "MigrationSettings":
        """Return a copy with these capabilities switched on or off.

        `wanted`: a list of objects with `capability` and `state`. Raises QmpError for
        anything else, and for an unknown capability.
        """
        if not isinstance(wanted, list):
            raise QmpError("Invalid parameter type for 'capabilities', expected: array")
        changes: dict[str, Any] = {}
        for entry in wanted:
            name, state = _capability(entry)
            changes[_field(name)] = state
        return replace(self, **changes)


def _read_knobs() -> Mapping[str, Knob]:
    hints = get_type_hints(MigrationSettings, include_extras=True)
    return MappingProxyType(
        {each.name: hints[each.name].__metadata__[0] for each in fields(MigrationSettings)}
    )


KNOBS: Final = _read_knobs()
"""Every setting, by its field in MigrationSettings."""


def _qmp_name(field: str) -> str:
    return field.replace("_", "-")


def _field(qmp_name: str) -> str:
    return qmp_name.replace("-", "_")


_PARAMETERS: Final = {
    _qmp_name(name): knob for name, knob in KNOBS.items() if not isinstance(knob.type, Switch)
}

CAPABILITIES: Final = tuple(
    _qmp_name(name) for name, knob in KNOBS.items() if isinstance(knob.type, Switch)
)

PARAMETER_SCHEMA: Final[Mapping[str, Argument]] = MappingProxyType(
    {name: Argument(knob.type.argument_type) for name, knob in _PARAMETERS.items()}
)


def _capability(entry: object) -> tuple[str, bool]:
    if not isinstance(entry, dict) or set(entry) != {"capability", "state"}:
        raise QmpError("Each of 'capabilities' is an object with 'capability' and 'state'")
    name, state = entry["capability"], entry["state"]
    if name not in CAPABILITIES:
        raise QmpError(f"Parameter 'capability' does not accept value '{name}'")
    if not isinstance(state, bool):
        raise QmpError("Invalid parameter type for 'state', expected: boolean")
    return name, state


# --- the options of `tagalong migrate` ---


def _one_field(name: str, knob: Knob, form: OptionForm) -> CommandOption:
    default = MigrationSettings.__dataclass_fields__[name].default
    return CommandOption(form, knob.type, default, lambda value: {name: value})


def _channels(count: int | str) -> Mapping[str, object]:
    return {} if count == AUTO else {"multifd": True, "multifd_channels": count}


def _compression(text: str) -> Mapping[str, object]:
    compression = parse_compression(text)
    return {
        "multifd_compression": compression.mode.value,
        "multifd_zstd_level": compression.level,
    }


COMMAND_OPTIONS: Final[tuple[CommandOption, ...]] = (
    *(_one_field(name, knob, knob.option) for name, knob in KNOBS.items() if knob.option),
    CommandOption(
        OptionForm(
            "--channels",
            "Connections to spread the pages over; auto: as many as the guest, both "
            "hosts' processors and the link are good for.",
            "COUNT",
        ),
        CountOrAuto(1, MAX_CHANNELS),
        AUTO,
        _channels,
    ),
    CommandOption(
        OptionForm(
            "--compress",
            "Compress data: none, zstd, zstd:LEVEL, or auto, where it makes them arrive sooner.",
            "HOW",
        ),
        FreeText(),
        CompressionMode.NONE.value,
        _compression,
    ),
)
"""One option per setting that has one; channels and compression are two settings each."""


def settings_of(values: Mapping[str, Any]) -> MigrationSettings:
    """Return the settings that the values of COMMAND_OPTIONS, by parameter, name.

    Raises UsageError for a compression that does not exist.
    """
    changes: dict[str, Any] = {}
    for option in COMMAND_OPTIONS:
        changes.update(option.settings(values[option.parameter]))
    return MigrationSettings(**changes)
