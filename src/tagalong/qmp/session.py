"""One client's conversation with the VM, without any I/O.

    greeting sent -> qmp_capabilities -> commands and events

Bytes go in, the bytes of the replies come out; a session knows nothing of sockets. A command
may take its time: then a future of its reply comes out, and no further command of this
client runs before that is done.
"""

import asyncio
import logging
from collections.abc import Iterator
from typing import Protocol

from tagalong.errors import TagalongError
from tagalong.qmp import messages
from tagalong.qmp.arguments import Argument, ArgumentType, check_arguments
from tagalong.qmp.descriptors import DescriptorSource, NoDescriptors
from tagalong.qmp.framing import MessageSplitter, OversizedMessageError
from tagalong.qmp.messages import ErrorClass, JsonObject, QmpError, QmpRequest

NEGOTIATE = "qmp_capabilities"

_NEGOTIATE_ARGUMENTS = {"enable": Argument(ArgumentType.ARRAY)}


class Commands(Protocol):
    """What a session can ask of the VM."""

    def execute(self, command: str, arguments: JsonObject, descriptors: DescriptorSource) -> object:
        """Run a command and return its value, or a future of it.

        `descriptors` came with it; what the command does not take is closed. Raises QmpError or
        TagalongError; so may the future.
        """
        ...


class Session:
    """The server's side of one connection.

    `negotiated` says whether the client may get events. `finished` is True after a
    message that was too long: send what came back, then close the connection.
    """

    def __init__(self, commands: Commands, descriptors: DescriptorSource | None = None) -> None:
        self.negotiated = False
        self.finished = False
        self._commands = commands
        self._descriptors = descriptors or NoDescriptors()
        self._splitter = MessageSplitter()

    def greeting(self) -> bytes:
        """Return what the client is sent first."""
        return messages.encode(messages.greeting())

    def receive(self, data: bytes) -> Iterator[bytes | asyncio.Future[bytes]]:
        """Run the commands in `data` one by one and yield the reply of each, or a future.

        Each command runs when the iterator is advanced, so that events which it causes
        can go out between the replies, in the order in which things happened. After a future
        it must not be advanced before that is done.
        """
        try:
            for message in self._splitter.feed(data):
                answer = self._answer(message)
                self._descriptors.drop()
                if isinstance(answer, asyncio.Future):
                    yield answer
                else:
                    yield messages.encode(answer)
        except OversizedMessageError as error:
            self.finished = True
            yield messages.encode(messages.failure(QmpError(str(error))))

    def _answer(self, message: bytes) -> JsonObject | asyncio.Future[bytes]:
        try:
            request = messages.parse_request(message)
        except QmpError as error:
            return messages.failure(error)
        try:
            value = self._execute(request)
        except Exception as error:  # noqa: BLE001 (see _failure)
            return _failure(error, request)
        if isinstance(value, asyncio.Future):
            return asyncio.ensure_future(_later(value, request))
        return messages.success(value, request.request_id)

    def _execute(self, request: QmpRequest) -> object:
        if request.command == NEGOTIATE:
            return self._negotiate(request.arguments)
        if not self.negotiated:
            raise QmpError(
                f"Expecting capabilities negotiation with '{NEGOTIATE}'",
                error_class=ErrorClass.COMMAND_NOT_FOUND,
            )
        return self._commands.execute(request.command, request.arguments, self._descriptors)

    def _negotiate(self, arguments: JsonObject) -> object:
        if self.negotiated:
            raise QmpError(
                "Capabilities negotiation is already complete, command ignored",
                error_class=ErrorClass.COMMAND_NOT_FOUND,
            )
        check_arguments(arguments, _NEGOTIATE_ARGUMENTS)
        if wanted := arguments.get("enable"):
            raise QmpError(f"Capabilities are not available: {wanted}")
        self.negotiated = True
        return {}


async def _later(value: asyncio.Future[object], request: QmpRequest) -> bytes:
    try:
        return messages.encode(messages.success(await value, request.request_id))
    except Exception as error:  # noqa: BLE001 (see _failure)
        return messages.encode(_failure(error, request))


def _failure(error: Exception, request: QmpRequest) -> JsonObject:
    """Return the reply to a command that raised `error`.

    Whatever a command raises is an answer: neither a host without memory nor a bug of ours may end
    the connection, or take the other clients with it.
    """
    refusal = error if isinstance(error, QmpError) else QmpError(_reason(error))
    refusal.request_id = request.request_id
    return messages.failure(refusal)


def _reason(error: Exception) -> str:
    match error:
        case TagalongError():
            return str(error)
        case MemoryError():
            return "not enough memory on this host for the command"
        case OSError():
            return f"the host refused: {error.strerror or error}"
    logging.getLogger(__name__).error("bug in tagalong, please report it", exc_info=error)
    return f"internal error: {type(error).__name__}: {error}"
