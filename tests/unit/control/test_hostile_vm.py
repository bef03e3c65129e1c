"""A hostile process behind the control socket: what it costs a client is bounded."""

import asyncio
import json
import tracemalloc
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path

import pytest

from tagalong.control import client as client_module
from tagalong.control import vm_control
from tagalong.control.client import ControlClient, connect
from tagalong.control.vm_control import quit_vm
from tagalong.errors import CommandError, ControlError, with_causes
from tagalong.qapi.migration import MigrationRequest
from tests.support.served_vm import served_vm

TIMEOUT_S = 60.0
GREETING = {"QMP": {"version": {"qemu": {"major": 0, "minor": 1, "micro": 0}}, "capabilities": []}}
EVENT = b'{"event": "MIGRATION", "data": {"status": "active", "pad": "%s"}, "timestamp": %s}\r\n'
FLOOD = EVENT % (b"x" * 1000, b'{"seconds": 1, "microseconds": 0}')


def line(message: object) -> bytes:
    return json.dumps(message).encode() + b"\r\n"


async def converse(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    answer: Callable[[str, asyncio.StreamWriter, object], Awaitable[None]],
) -> None:
    writer.write(line(GREETING))
    decoder = json.JSONDecoder()
    pending = ""
    while received := await reader.read(65536):
        pending += received.decode()
        while pending.strip():
            request, end = decoder.raw_decode(pending.lstrip())
            pending = pending.lstrip()[end:]
            if request["execute"] == "qmp_capabilities":
                writer.write(line({"return": {}}))
            else:
                await answer(request["execute"], writer, request["id"])


def play(
    tmp_path: Path,
    answer: Callable[[str, asyncio.StreamWriter, object], Awaitable[None]],
    script: Callable[[ControlClient], Awaitable[None]],
) -> None:
    """Run a script with a client of a VM whose answers, but for negotiation, are `answer`'s."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await converse(reader, writer, answer)
        finally:
            writer.transport.abort()

    async def run() -> None:
        path = tmp_path / "vm.sock"
        async with (
            asyncio.timeout(TIMEOUT_S),
            await asyncio.start_unix_server(serve, str(path)),
            connect(path) as client,
        ):
            await script(client)

    asyncio.run(run())


def test_vm_that_never_answers_costs_no_more_than_a_deadline(tmp_path: Path) -> None:
    async def answer(_command: str, _writer: asyncio.StreamWriter, _id: object) -> None:
        pass

    async def script(client: ControlClient) -> None:
        with pytest.raises(ControlError, match="has not answered query-status in 0 s: see"):
            await client.execute("query-status", timeout_s=0.05)

    play(tmp_path, answer, script)
    assert client_module.ANSWER_TIMEOUT_S == 60


def test_vm_that_answers_without_an_end_is_an_error_and_bounded(tmp_path: Path) -> None:
    async def answer(_command: str, writer: asyncio.StreamWriter, _id: object) -> None:
        while not writer.is_closing():
            writer.write(b"x" * 65536)
            try:
                await writer.drain()
            except ConnectionError:
                return

    async def script(client: ControlClient) -> None:
        with pytest.raises(ControlError, match=r"^lost the control socket"):
            await client.migration()

    tracemalloc.start()
    play(tmp_path, answer, script)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 32 << 20


def test_vm_that_floods_events_costs_no_memory_and_answers_still_arrive(tmp_path: Path) -> None:
    async def answer(command: str, writer: asyncio.StreamWriter, request_id: object) -> None:
        assert command == "query-status"
        for _ in range(20_000):
            writer.write(FLOOD)
            await writer.drain()
        writer.write(line({"return": {"status": "running", "running": True}, "id": request_id}))

    async def script(client: ControlClient) -> None:
        assert await client.run_state() == "running"

    tracemalloc.start()
    play(tmp_path, answer, script)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 32 << 20


def test_events_that_are_not_read_make_the_vm_wait(tmp_path: Path) -> None:
    sent = 0

    async def answer(_command: str, writer: asyncio.StreamWriter, request_id: object) -> None:
        nonlocal sent
        writer.write(line({"return": {}, "id": request_id}))
        while not writer.is_closing():
            writer.write(FLOOD)
            sent += 1
            try:
                await writer.drain()
            except ConnectionError:
                return

    async def script(client: ControlClient) -> None:
        events = client.events()
        first = asyncio.ensure_future(anext(events))
        await client.execute("stop")
        assert (await first).name == "MIGRATION"
        await asyncio.sleep(0.5)
        assert 0 < sent * len(FLOOD) < 32 << 20
        assert isinstance(events, AsyncGenerator)
        await events.aclose()

    play(tmp_path, answer, script)


def test_answers_that_make_no_sense_are_errors_that_name_the_member(tmp_path: Path) -> None:
    answers: list[tuple[object, str]] = [
        ({"status": 7}, "query-migrate: 'status': expected"),
        ({"status": "\x1b[2J"}, "query-migrate: 'status': expected"),
        ([], "query-migrate: expected an object"),
        ({"status": "active", "ram": {"total": -1}}, "query-migrate: 'ram': 'total': expected"),
    ]
    said = iter(answers)

    async def answer(_command: str, writer: asyncio.StreamWriter, request_id: object) -> None:
        writer.write(line({"return": next(said)[0], "id": request_id}))

    async def script(client: ControlClient) -> None:
        for _, words in answers:
            with pytest.raises(ControlError, match=words) as caught:
                await client.migration()
            assert "\x1b" not in str(caught.value)

    play(tmp_path, answer, script)


def test_refusal_with_control_characters_is_shown_without_them(tmp_path: Path) -> None:
    async def answer(_command: str, writer: asyncio.StreamWriter, request_id: object) -> None:
        error = {"class": "GenericError", "desc": "no\x1b[2J\u202e"}
        writer.write(line({"error": error, "id": request_id}))

    async def script(client: ControlClient) -> None:
        with pytest.raises(CommandError) as caught:
            await client.execute("stop")
        assert str(caught.value) == "the VM refused stop: no\ufffd[2J\ufffd"

    play(tmp_path, answer, script)


def test_quit_that_the_vm_refuses_is_an_error_and_does_not_wait(tmp_path: Path) -> None:
    async def run() -> None:
        async with asyncio.timeout(TIMEOUT_S), served_vm(tmp_path / "vm.sock") as served:

            def decline() -> None:
                raise CommandError("the VM arrives at this moment")

            served.vm.before_end = decline
            await quit_vm(served.path)

    with pytest.raises(CommandError, match="the VM arrives at this moment"):
        asyncio.run(run())


def test_refusal_is_shown_once_and_clean_with_its_causes(tmp_path: Path) -> None:
    async def answer(_command: str, writer: asyncio.StreamWriter, request_id: object) -> None:
        error = {"class": "GenericError", "desc": "A\x1b[31mB\u202eC\u2028D\x9bE\nF"}
        writer.write(line({"error": error, "id": request_id}))

    async def script(client: ControlClient) -> None:
        with pytest.raises(CommandError) as caught:
            await client.execute("stop")
        assert with_causes(caught.value) == (
            "the VM refused stop: A\ufffd[31mB\ufffdC\ufffdD\ufffdE F"
        )

    play(tmp_path, answer, script)


def test_replies_that_the_reader_stumbles_over_are_control_errors(tmp_path: Path) -> None:
    deep = b"[" * 20_000 + b"]" * 20_000
    for reply in (b'{"return": {}, "id": [1]}\r\n', b'{"return": ' + deep + b"}\r\n"):

        async def answer(
            _command: str, writer: asyncio.StreamWriter, _id: object, reply: bytes = reply
        ) -> None:
            writer.write(reply)

        async def script(client: ControlClient) -> None:
            with pytest.raises(ControlError) as caught:
                await client.execute("query-status")
            path = tmp_path / "vm.sock"
            assert with_causes(caught.value) == (
                f"lost the control socket {path}: the connection has ended; see whether the VM "
                "still runs and answers in QMP"
            )

        play(tmp_path, answer, script)


def test_greeting_that_makes_no_sense_is_an_error_that_says_it_once(tmp_path: Path) -> None:
    deep = b"[" * 20_000 + b"]" * 20_000
    for greeting in (b"gar\x1bbage\r\n", b"[]\r\n", b'{"QMP": 5}\r\n', deep + b"\r\n"):
        said = failure_to_connect(tmp_path, greeting)

        assert said.startswith(f"cannot connect to the control socket {tmp_path}/vm.sock: ")
        assert said.isprintable()
        assert said.count("Failed to deserialize") <= 1
        assert "Error" not in said


def test_process_that_is_silent_is_an_error_that_says_what_it_did_not_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "_CONNECT_TIMEOUT_S", 2.0)
    advice = "in 2 s: see whether its process is stopped, or another program's"
    path = tmp_path / "vm.sock"

    assert failure_to_connect(tmp_path, b"") == (f"no QMP greeting from {path} {advice}")
    assert failure_to_connect(tmp_path, line(GREETING)) == (
        f"{path} sent a QMP greeting and has not answered qmp_capabilities {advice}"
    )


def test_migration_that_the_vm_does_not_know_ends_with_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "ANSWER_TIMEOUT_S", 0.2)

    async def answer(_command: str, writer: asyncio.StreamWriter, request_id: object) -> None:
        writer.write(line({"return": {}, "id": request_id}))

    async def script(client: ControlClient) -> None:
        request = MigrationRequest("tcp:host.example:1")
        with pytest.raises(ControlError, match=r"accepted the migration, and knows of none since"):
            await client.migrate(request, lambda _: None)

    play(tmp_path, answer, script)


def test_quit_that_the_vm_accepts_and_does_not_obey_ends_with_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vm_control, "QUIT_TIMEOUT_S", 0.2)

    async def answer(_command: str, writer: asyncio.StreamWriter, request_id: object) -> None:
        writer.write(line({"return": {}, "id": request_id}))

    async def script(_client: ControlClient) -> None:
        with pytest.raises(ControlError, match=r"accepted quit and has not ended in 0 s: see"):
            await quit_vm(tmp_path / "vm.sock")

    play(tmp_path, answer, script)
    assert client_module.ANSWER_TIMEOUT_S == 60


def failure_to_connect(tmp_path: Path, greeting: bytes) -> str:
    """Return what is said of a process that sends `greeting`, and no more."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(greeting)
        while await reader.read(65536):
            pass
        writer.transport.abort()

    async def run() -> str:
        path = tmp_path / "vm.sock"
        async with await asyncio.start_unix_server(serve, str(path)):
            with pytest.raises(ControlError) as caught:
                async with connect(path):
                    pass
        return with_causes(caught.value)

    return asyncio.run(run())
