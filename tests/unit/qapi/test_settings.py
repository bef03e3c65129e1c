"""Migration parameters and capabilities: QMP's names, QEMU's ranges, all or nothing."""

import dataclasses
import re

import pytest

from tagalong.migrate import MigrationOptions
from tagalong.qapi.migration import MigrationRequest
from tagalong.qapi.settings import (
    COMMAND_OPTIONS,
    KNOBS,
    PARAMETER_SCHEMA,
    MigrationSettings,
    settings_of,
)
from tagalong.qmp.messages import QmpError


def test_settings_say_their_defaults_in_qmps_form() -> None:
    settings = MigrationSettings()

    assert settings.parameters() == {
        "downtime-limit": 300,
        "max-bandwidth": 0,
        "avail-switchover-bandwidth": 0,
        "cpu-throttle-initial": 20,
        "cpu-throttle-increment": 10,
        "max-cpu-throttle": 99,
        "multifd-channels": 2,
        "multifd-compression": "none",
        "multifd-zstd-level": 1,
        "tls-creds": "",
        "tls-hostname": "",
        "x-max-rounds": 40,
        "x-reconnect": 0,
    }
    assert settings.capabilities() == [
        {"capability": "auto-converge", "state": False},
        {"capability": "multifd", "state": False},
    ]
    assert set(PARAMETER_SCHEMA) == set(settings.parameters())


def test_settings_taken_from_their_own_form_are_the_same() -> None:
    settings = MigrationSettings(downtime_limit=7, tls_creds="/tls", auto_converge=True)

    again = MigrationSettings().with_parameters(settings.parameters())
    again = again.with_capabilities(settings.capabilities())

    assert again == settings


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("downtime-limit", -1, "an integer in the range of 0 to 2000000 milliseconds"),
        ("downtime-limit", 2_000_001, "an integer in the range of 0 to 2000000 milliseconds"),
        ("max-bandwidth", -1, "an integer in the range of 0 to 9223372036854775807 bytes/second"),
        ("cpu-throttle-initial", 0, "an integer in the range of 1 to 99"),
        ("cpu-throttle-increment", 100, "an integer in the range of 1 to 99"),
        ("max-cpu-throttle", 100, "an integer in the range of 1 to 99"),
        ("x-max-rounds", 0, "an integer in the range of 1 to 1000000"),
        ("multifd-channels", 17, "an integer in the range of 1 to 16"),
        ("multifd-zstd-level", 20, "an integer in the range of 1 to 19"),
        ("x-reconnect", 3601, "an integer in the range of 0 to 3600 seconds"),
        ("tls-creds", "a\0b", "a text without NUL"),
    ],
)
def test_parameter_out_of_range_is_refused_in_qemus_words(
    name: str, value: object, text: str
) -> None:
    expected = f"Parameter '{name}' expects {text}"

    with pytest.raises(QmpError, match=re.escape(expected) + "$"):
        MigrationSettings().with_parameters({"x-max-rounds": 5, name: value})


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        ("auto-converge", "Invalid parameter type for 'capabilities', expected: array"),
        (["auto-converge"], "Each of 'capabilities' is an object"),
        ([{"capability": "auto-converge"}], "Each of 'capabilities' is an object"),
        (
            [{"capability": "xbzrle", "state": True}],
            "Parameter 'capability' does not accept value 'xbzrle'",
        ),
        (
            [{"capability": "auto-converge", "state": 1}],
            "Invalid parameter type for 'state', expected: boolean",
        ),
    ],
)
def test_capability_that_is_none_is_refused(wanted: object, text: str) -> None:
    with pytest.raises(QmpError, match=text):
        MigrationSettings().with_capabilities(wanted)


def test_compression_that_is_none_is_refused() -> None:
    with pytest.raises(
        QmpError, match=r"^Parameter 'multifd-compression' does not accept value 'zlib'$"
    ):
        MigrationSettings().with_parameters({"multifd-compression": "zlib"})


def test_settings_table_has_a_knob_for_each_field_with_a_default_in_range() -> None:
    defaults = MigrationSettings()

    assert set(KNOBS) == {each.name for each in dataclasses.fields(MigrationSettings)}
    for name, knob in KNOBS.items():
        knob.type.check(name, getattr(defaults, name))


def test_settings_with_the_options_defaults_are_the_default_settings() -> None:
    values = {option.parameter: option.default for option in COMMAND_OPTIONS}

    assert settings_of(values) == MigrationSettings()
    assert settings_of(values).options() == MigrationSettings().options() == MigrationOptions()


def test_each_option_changes_what_a_migration_is_asked_for() -> None:
    """An option whose value went nowhere would be one that is accepted and ignored."""
    values = {option.parameter: option.default for option in COMMAND_OPTIONS}
    other: dict[str, object] = {
        "max_downtime": 50, "max_bandwidth": 1000, "switchover_bandwidth": 2000,
        "tls_dir": "/tls", "tls_hostname": "h", "max_rounds": 7, "reconnect": 5,
        "auto_converge": True, "channels": 4, "compress": "zstd:3",
    }  # fmt: skip
    assert set(other) == set(values)

    for parameter, value in other.items():
        changed = settings_of({**values, "tls_dir": "/", parameter: value})
        unchanged = settings_of({**values, "tls_dir": "/"})
        asked = MigrationRequest("tcp:host.example:1", changed).options()
        assert asked != MigrationRequest("tcp:host.example:1", unchanged).options(), parameter
