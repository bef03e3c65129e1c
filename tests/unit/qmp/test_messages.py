"""QMP's forms, with QEMU's error texts."""

import json

import pytest

from tagalong import __version__
from tagalong.qmp import messages
from tagalong.qmp.arguments import Argument, ArgumentType, check_arguments
from tagalong.qmp.messages import ErrorClass, Event, QmpError, QmpRequest, parse_request


def test_greeting_has_version_and_no_capabilities() -> None:
    major, minor, micro = (int(part) for part in __version__.split("."))

    assert messages.greeting() == {
        "QMP": {
            "version": {
                "qemu": {"major": major, "minor": minor, "micro": micro},
                "package": f"tagalong {__version__}",
            },
            "capabilities": [],
        }
    }


def test_parse_request_full_returns_all_members() -> None:
    request = parse_request(b'{"execute": "migrate", "arguments": {"uri": "x"}, "id": [1]}')

    assert request == QmpRequest("migrate", {"uri": "x"}, [1])


def test_parse_request_minimal_has_no_arguments_and_no_id() -> None:
    assert parse_request(b'{"execute": "stop"}') == QmpRequest("stop", {}, None)


@pytest.mark.parametrize(
    ("message", "description"),
    [
        (b"hello", "JSON parse error, Expecting value at character 0"),
        (b'{ "execute": }', "JSON parse error, Expecting value at character 13"),
        (b'{"execute": "stop\xff', "JSON parse error, invalid UTF-8 at byte 17"),
        (b'{"a": NaN}', "JSON parse error, NaN is not a JSON value"),
        (b"[" * 60000 + b"]" * 5000, "JSON nesting depth limit exceeded"),
        (b'{"id": ' + b"[" * 200 + b"]" * 200 + b"}", "JSON nesting depth limit exceeded"),
        (b'{"id": 1e999}', "JSON parse error, the number 1e999 is out of range"),
        (b'{"arguments": {"a": [-1e999]}}', "JSON parse error, the number -1e999 is out of range"),
        (b'{"id": "a\\u0000"}', "JSON parse error, invalid escape \\u0000 in a string"),
        (b'{"a\\u0000": 1}', "JSON parse error, invalid escape \\u0000 in a string"),
        (b'{"id": ["\\udc80"]}', "JSON parse error, half of a surrogate pair in a string"),
        (b'{"id": "\\ud800x"}', "JSON parse error, half of a surrogate pair in a string"),
        (b"[1]", "QMP input must be a JSON object"),
        (b'"stop"', "QMP input must be a JSON object"),
        (b"{}", "QMP input lacks member 'execute'"),
        (b'{"execute": 1}', "QMP input member 'execute' must be a string"),
        (b'{"execute": "a", "x": 1}', "QMP input member 'x' is unexpected"),
        (b'{"exec-oob": "a"}', "QMP input member 'exec-oob' is unexpected"),
        (b'{"execute": "a", "arguments": []}', "QMP input member 'arguments' must be an object"),
    ],
    ids=lambda value: value[:30] if isinstance(value, bytes) else "",
)
def test_parse_request_bad_input_raises_with_qemus_words(message: bytes, description: str) -> None:
    with pytest.raises(QmpError) as caught:
        parse_request(message)

    assert caught.value.description == description
    assert caught.value.error_class is ErrorClass.GENERIC


def test_parse_request_integer_of_thousands_of_digits_raises() -> None:
    with pytest.raises(QmpError, match=r"^JSON parse error, Exceeds the limit"):
        parse_request(b'{"id": ' + b"9" * 5000 + b"}")


def test_parse_request_bad_object_with_id_keeps_the_id() -> None:
    with pytest.raises(QmpError) as caught:
        parse_request(b'{"id": 7}')

    assert messages.failure(caught.value) == {
        "error": {"class": "GenericError", "desc": "QMP input lacks member 'execute'"},
        "id": 7,
    }


def test_success_without_id_has_none() -> None:
    assert messages.success({}, None) == {"return": {}}
    assert messages.success([1], "a") == {"return": [1], "id": "a"}


def test_event_to_json_splits_the_time() -> None:
    event = Event("MIGRATION", {"status": "setup"}, time_us=5_000_007)

    assert event.to_json() == {
        "timestamp": {"seconds": 5, "microseconds": 7},
        "event": "MIGRATION",
        "data": {"status": "setup"},
    }
    assert "data" not in Event("STOP").to_json()


def test_encode_is_one_ascii_line() -> None:
    line = messages.encode({"a": "é\n"})

    assert line == b'{"a": "\\u00e9\\n"}\r\n'
    assert json.loads(line) == {"a": "é\n"}


SCHEMA = {
    "uri": Argument(ArgumentType.STRING, required=True),
    "limit": Argument(ArgumentType.INTEGER),
    "flag": Argument(ArgumentType.BOOLEAN),
    "list": Argument(ArgumentType.ARRAY),
}


def test_check_arguments_all_right_passes() -> None:
    check_arguments({"uri": "x", "limit": 1, "flag": False, "list": []}, SCHEMA)


@pytest.mark.parametrize(
    ("arguments", "description"),
    [
        ({}, "Parameter 'uri' is missing"),
        ({"uri": "x", "more": 1}, "Parameter 'more' is unexpected"),
        ({"uri": 1}, "Invalid parameter type for 'uri', expected: string"),
        ({"uri": "x", "limit": True}, "Invalid parameter type for 'limit', expected: integer"),
        ({"uri": "x", "limit": 1.5}, "Invalid parameter type for 'limit', expected: integer"),
        ({"uri": "x", "flag": 1}, "Invalid parameter type for 'flag', expected: boolean"),
        ({"uri": "x", "list": {}}, "Invalid parameter type for 'list', expected: array"),
    ],
)
def test_check_arguments_wrong_raises_with_qemus_words(
    arguments: dict[str, object], description: str
) -> None:
    with pytest.raises(QmpError) as caught:
        check_arguments(arguments, SCHEMA)

    assert caught.value.description == description


def test_id_that_can_be_read_can_be_sent_back() -> None:
    nested: object = 0
    for _ in range(120):
        nested = [nested]
    ids = [nested, 1e308, "\U0001f600 ü", {"a": [None, True]}, 1 << 200]

    for request_id in ids:
        message = json.dumps({"execute": "stop", "id": request_id}).encode()
        reply = json.loads(messages.encode(messages.success({}, parse_request(message).request_id)))
        assert reply["id"] == request_id


def test_encode_writes_no_number_that_is_not_json() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        messages.encode({"return": float("inf")})
