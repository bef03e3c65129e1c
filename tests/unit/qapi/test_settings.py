"""Migration parameters and capabilities: QMP's names, QEMU's ranges, all or nothing."""

import re

import pytest

from tagalong.qapi.settings import PARAMETER_SCHEMA, MigrationSettings
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
