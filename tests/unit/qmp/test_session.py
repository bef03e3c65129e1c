"""A client's conversation, byte for byte, without a socket."""

import asyncio
import json

import pytest

from tagalong.errors import RunStateError
from tagalong.qmp.framing import MAX_MESSAGE_BYTES
from tagalong.qmp.messages import JsonObject, QmpError
from tagalong.qmp.session import Session


class RecordingCommands:
    """Answers with the command's name, and fails on request."""

    def __init__(self) -> None:
        self.executed: list[tuple[str, JsonObject]] = []

    def execute(self, command: str, arguments: JsonObject, _: object = None) -> object:
        self.executed.append((command, arguments))
        if command == "refuse":
            raise RunStateError("not now")
        if command == "hungry":
            raise MemoryError
        if command == "denied":
            raise OSError(36, "File name too long")
        if command == "buggy":
            raise ZeroDivisionError("oops")
        if command == "unknown":
            raise QmpError("what?")
        return {"ran": command}


def answers(session: Session, data: bytes) -> list[dict[str, object]]:
    replies = []
    for line in session.receive(data):
        assert isinstance(line, bytes)
        replies.append(json.loads(line))
    return replies


@pytest.fixture
def commands() -> RecordingCommands:
    return RecordingCommands()


@pytest.fixture
def session(commands: RecordingCommands) -> Session:
    return Session(commands)


def test_greeting_is_the_first_line(session: Session) -> None:
    assert set(json.loads(session.greeting())) == {"QMP"}


def test_receive_command_before_negotiation_is_refused_as_qemu_does(
    session: Session, commands: RecordingCommands
) -> None:
    assert answers(session, b'{"execute": "stop", "id": 1}') == [
        {
            "error": {
                "class": "CommandNotFound",
                "desc": "Expecting capabilities negotiation with 'qmp_capabilities'",
            },
            "id": 1,
        }
    ]
    assert commands.executed == []


def test_receive_negotiation_opens_the_session_once(session: Session) -> None:
    negotiate = b'{"execute": "qmp_capabilities"}'

    first, second = answers(session, negotiate * 2)

    assert first == {"return": {}}
    assert session.negotiated
    assert second == {
        "error": {
            "class": "CommandNotFound",
            "desc": "Capabilities negotiation is already complete, command ignored",
        }
    }


def test_receive_negotiation_of_unknown_capability_is_refused(session: Session) -> None:
    wish = b'{"execute": "qmp_capabilities", "arguments": {"enable": ["oob"]}}'

    (answer,) = answers(session, wish)

    assert answer["error"] == {
        "class": "GenericError",
        "desc": "Capabilities are not available: ['oob']",
    }
    assert not session.negotiated


def test_receive_after_negotiation_runs_commands_in_order(
    session: Session, commands: RecordingCommands
) -> None:
    session.negotiated = True

    replies = answers(session, b'{"execute": "a", "id": "x"}{"execute": "b"}')

    assert replies == [{"return": {"ran": "a"}, "id": "x"}, {"return": {"ran": "b"}}]
    assert commands.executed == [("a", {}), ("b", {})]


def test_receive_runs_each_command_only_when_its_reply_is_taken(
    session: Session, commands: RecordingCommands
) -> None:
    session.negotiated = True
    replies = session.receive(b'{"execute": "a"}{"execute": "b"}')

    next(replies)

    assert commands.executed == [("a", {})]


@pytest.mark.parametrize(("command", "text"), [("refuse", "not now"), ("unknown", "what?")])
def test_receive_command_that_fails_answers_in_qmps_error_form(
    session: Session, command: str, text: str
) -> None:
    session.negotiated = True

    (answer,) = answers(session, b'{"execute": "%s", "id": 3}' % command.encode())

    assert answer == {"error": {"class": "GenericError", "desc": text}, "id": 3}


def test_receive_bad_json_is_answered_and_the_session_goes_on(session: Session) -> None:
    bad, good = answers(session, b'{ "execute": }\n{"execute": "qmp_capabilities"}')

    assert bad == {
        "error": {
            "class": "GenericError",
            "desc": "JSON parse error, Expecting value at character 13",
        }
    }
    assert good == {"return": {}}


def test_receive_oversized_message_is_answered_and_finishes(session: Session) -> None:
    (answer,) = answers(session, b'{"execute": "' + b"x" * MAX_MESSAGE_BYTES)

    assert answer == {"error": {"class": "GenericError", "desc": "QMP message exceeds 65536 bytes"}}
    assert session.finished


class SlowCommands:
    """Answers with a future that the test decides."""

    def __init__(self) -> None:
        self.futures: list[asyncio.Future[object]] = []

    def execute(self, command: str, arguments: JsonObject, _: object = None) -> object:
        del command, arguments
        self.futures.append(asyncio.get_running_loop().create_future())
        return self.futures[-1]


def test_receive_command_that_takes_its_time_gives_a_future_of_the_reply() -> None:
    async def run() -> None:
        commands = SlowCommands()
        session = Session(commands)
        answers(session, b'{"execute": "qmp_capabilities"}')
        replies = session.receive(b'{"execute": "a", "id": 1}{"execute": "b", "id": 2}')
        first = next(replies)
        assert isinstance(first, asyncio.Future)
        assert len(commands.futures) == 1  # the second waits for whoever advances
        commands.futures[0].set_result({"x": 1})
        assert json.loads(await first) == {"return": {"x": 1}, "id": 1}
        second = next(replies)
        assert isinstance(second, asyncio.Future)
        commands.futures[1].set_exception(RunStateError("not any more"))
        assert json.loads(await second) == {
            "error": {"class": "GenericError", "desc": "not any more"},
            "id": 2,
        }

    asyncio.run(run())


def test_whatever_a_command_raises_is_an_answer_and_the_session_goes_on(
    session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    answers(session, b'{"execute": "qmp_capabilities"}')
    cases = {
        "hungry": "not enough memory on this host for the command",
        "denied": "the host refused: File name too long",
        "buggy": "internal error: ZeroDivisionError: oops",
    }

    for command, reason in cases.items():
        (reply,) = answers(session, json.dumps({"execute": command, "id": 3}).encode())
        assert reply == {"error": {"class": "GenericError", "desc": reason}, "id": 3}

    assert answers(session, b'{"execute": "next"}') == [{"return": {"ran": "next"}}]
    assert "bug in tagalong" in caplog.text
