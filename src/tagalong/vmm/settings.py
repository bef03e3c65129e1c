"""What an operator can set for migrations: QMP's migration parameters and capabilities.

Names, units and defaults are QEMU's (qapi/migration.json, MigrationParameters and
MigrationCapability) where there is a thing of that kind; what QEMU does not have is
prefixed `x-`. Other defaults: no bandwidth limit, since nothing else is on most links.
`multifd-compression` holds for one connection, too.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Final

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
)
from tagalong.qmp.arguments import Argument, Kind
from tagalong.qmp.messages import JsonObject, QmpError

MAX_DOWNTIME_LIMIT_MS: Final = 2_000_000
_MAX_BANDWIDTH: Final = (1 << 63) - 1
_MAX_ROUNDS: Final = 1_000_000
_MS_PER_S: Final = 1000.0


@dataclass(frozen=True)
class MigrationSettings:
    """How a migration is to be made; each field is a parameter or a capability of QMP.

    Bandwidths are in bytes a second, 0 stands for no limit, or for what is measured.
    `multifd_channels` counts only if `multifd` is on; else there is one connection.
    `x_reconnect` is in seconds, 0 for not at all.
    """

    downtime_limit: int = 300
    max_bandwidth: int = 0
    avail_switchover_bandwidth: int = 0
    cpu_throttle_initial: int = 20
    cpu_throttle_increment: int = 10
    max_cpu_throttle: int = MAX_THROTTLE_PERCENT
    multifd_channels: int = 2
    multifd_compression: str = "none"
    multifd_zstd_level: int = 1
    tls_creds: str = ""
    tls_hostname: str = ""
    x_max_rounds: int = 40
    x_reconnect: int = 0
    auto_converge: bool = False
    multifd: bool = False

    def options(self) -> MigrationOptions:
        """Return what they ask of a migration, without TLS."""
        throttling = AutoConverge(
            self.cpu_throttle_initial, self.cpu_throttle_increment, self.max_cpu_throttle
        )
        return MigrationOptions(
            max_downtime_s=self.downtime_limit / _MS_PER_S,
            max_rounds=self.x_max_rounds,
            max_bandwidth=self.max_bandwidth or None,
            switchover_bandwidth=self.avail_switchover_bandwidth or None,
            auto_converge=throttling if self.auto_converge else None,
            channels=self.multifd_channels if self.multifd else 1,
            compression=Compression(
                CompressionMode(self.multifd_compression), self.multifd_zstd_level
            ),
            reconnect_s=self.x_reconnect,
        )

    def parameters(self) -> dict[str, object]:
        """Return what QMP's query-migrate-parameters says."""
        return {name: getattr(self, _field(name)) for name in _PARAMETERS}

    def capabilities(self) -> list[dict[str, object]]:
        """Return what QMP's query-migrate-capabilities says."""
        return [{"capability": name, "state": getattr(self, _field(name))} for name in CAPABILITIES]

    def with_parameters(self, arguments: JsonObject) -> "MigrationSettings":
        """Return settings in which these parameters are others.

        Raises QmpError, with QEMU's words, for a value that is out of range.
        """
        for name, value in arguments.items():
            _PARAMETERS[name].check(name, value)
        changes: dict[str, Any] = {_field(name): value for name, value in arguments.items()}
        return replace(self, **changes)

    def with_capabilities(self, wanted: object) -> "MigrationSettings":
        """Return settings in which these capabilities are on or off.

        `wanted`: a list of objects with `capability` and `state`. Raises QmpError for
        anything else, and for a capability that is not one.
        """
        if not isinstance(wanted, list):
            raise QmpError("Invalid parameter type for 'capabilities', expected: array")
        changes: dict[str, Any] = {}
        for entry in wanted:
            name, state = _capability(entry)
            changes[_field(name)] = state
        return replace(self, **changes)


class Unit(Enum):
    """What a parameter counts; the values are words of an error text."""

    SECONDS = " seconds"
    MILLISECONDS = " milliseconds"
    BYTES_PER_S = " bytes/second"
    NONE = ""


@dataclass(frozen=True)
class _Integer:
    least: int
    most: int
    unit: Unit = Unit.NONE
    kind: Kind = Kind.INTEGER

    def check(self, name: str, value: object) -> None:
        if not isinstance(value, int) or not self.least <= value <= self.most:
            raise QmpError(
                f"Parameter '{name}' expects an integer in the range of "
                f"{self.least} to {self.most}{self.unit.value}"
            )


@dataclass(frozen=True)
class _Choice:
    choices: tuple[str, ...]
    kind: Kind = Kind.STRING

    def check(self, name: str, value: object) -> None:
        if value not in self.choices:
            raise QmpError(f"Parameter '{name}' does not accept value '{value}'")


@dataclass(frozen=True)
class _Text:
    kind: Kind = Kind.STRING

    def check(self, name: str, value: object) -> None:
        if not isinstance(value, str) or "\0" in value:
            raise QmpError(f"Parameter '{name}' expects a text without NUL")


_PERCENT = _Integer(1, MAX_THROTTLE_PERCENT)

_PARAMETERS: Mapping[str, _Integer | _Choice | _Text] = {
    "downtime-limit": _Integer(0, MAX_DOWNTIME_LIMIT_MS, Unit.MILLISECONDS),
    "max-bandwidth": _Integer(0, _MAX_BANDWIDTH, Unit.BYTES_PER_S),
    "avail-switchover-bandwidth": _Integer(0, _MAX_BANDWIDTH, Unit.BYTES_PER_S),
    "cpu-throttle-initial": _PERCENT,
    "cpu-throttle-increment": _PERCENT,
    "max-cpu-throttle": _PERCENT,
    "multifd-channels": _Integer(1, MAX_CHANNELS),
    "multifd-compression": _Choice(tuple(mode.value for mode in CompressionMode)),
    "multifd-zstd-level": _Integer(MIN_COMPRESSION_LEVEL, MAX_COMPRESSION_LEVEL),
    "tls-creds": _Text(),
    "tls-hostname": _Text(),
    "x-max-rounds": _Integer(1, _MAX_ROUNDS),
    "x-reconnect": _Integer(0, MAX_RECONNECT_S, Unit.SECONDS),
}

CAPABILITIES: Final = ("auto-converge", "multifd")

PARAMETER_SCHEMA: Mapping[str, Argument] = {
    name: Argument(parameter.kind) for name, parameter in _PARAMETERS.items()
}


def _field(name: str) -> str:
    return name.replace("-", "_")


def _capability(entry: object) -> tuple[str, bool]:
    if not isinstance(entry, dict) or set(entry) != {"capability", "state"}:
        raise QmpError("Each of 'capabilities' is an object with 'capability' and 'state'")
    name, state = entry["capability"], entry["state"]
    if name not in CAPABILITIES:
        raise QmpError(f"Parameter 'capability' does not accept value '{name}'")
    if not isinstance(state, bool):
        raise QmpError("Invalid parameter type for 'state', expected: boolean")
    return name, state
