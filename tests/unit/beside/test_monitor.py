"""What a VMM's monitor says of its guest."""

import asyncio
from typing import TYPE_CHECKING, cast

import pytest

from tagalong.beside.monitor import VmmMonitor
from tagalong.errors import CommandError

if TYPE_CHECKING:
    from tagalong.control.client import ControlClient


class Answering:
    """A client whose VMM gives one answer."""

    def __init__(self, answer: object) -> None:
        self._answer = answer

    async def execute(self, command: str, _arguments: object, *, timeout_s: float) -> object:
        assert (command, timeout_s > 0) == ("query-uuid", True)
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer


def guest_id(answer: object) -> bytes:
    async def ask() -> bytes:
        client = cast("ControlClient", Answering(answer))
        return await VmmMonitor(client, asyncio.get_running_loop()).guest_id()

    return asyncio.run(ask())


def test_guest_id_names_the_guest_whatever_the_form_of_its_uuid() -> None:
    name = guest_id({"UUID": "2f1d5a3e-0000-4000-8000-0123456789ab"})

    assert len(name) == 8
    assert name == guest_id({"UUID": "2F1D5A3E-0000-4000-8000-0123456789AB"})
    assert name != guest_id({"UUID": "2f1d5a3e-0000-4000-8000-0123456789ac"})


@pytest.mark.parametrize(
    "answer",
    [
        {"UUID": "00000000-0000-0000-0000-000000000000"},  # QEMU without -uuid
        {"UUID": "no uuid"},
        {"UUID": 7},
        {},
        [],
        CommandError("there is no query-uuid"),
    ],
)
def test_guest_without_a_uuid_has_no_id(answer: object) -> None:
    assert guest_id(answer) == b""
