"""One of the demo's two processes: a real `tagalong run`, which never outlives the demo."""

import asyncio
import os
import signal
import sys
import time
from asyncio import StreamReader
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import cast

from tagalong.control.client import ControlClient, connect
from tagalong.errors import ControlError, MachineError
from tagalong.studies.demo.guest_log import GuestLog

_START_TIMEOUT_S = 20.0
_POLL_S = 0.01
_STOP_TIMEOUT_S = 5.0
_LAST_MESSAGES = 20
_MAX_LINE_BYTES = 1 << 20
_PREFIX = "tagalong: error: "


class VmProcess:
    """A running `tagalong run`, made by `start`. `log`: the console of its guest."""

    def __init__(self, name: str, control: Path, process: Process) -> None:
        self.name = name
        self.control = control
        self.log = GuestLog()
        self._process = process
        self._messages: deque[str] = deque(maxlen=_LAST_MESSAGES)
        self._readers = [
            asyncio.create_task(self._read_console(cast("StreamReader", process.stdout))),
            asyncio.create_task(self._read_messages(cast("StreamReader", process.stderr))),
        ]

    async def ended_early(self) -> MachineError:
        """Wait for the end of a process that should not end; return the error for it."""
        await self.stop()
        last = self._messages[-1] if self._messages else "it printed no message"
        return MachineError(
            f"the {self.name} process ended with status {self._process.returncode}: "
            f"{last.removeprefix(_PREFIX)}"
        )

    async def stop(self) -> None:
        """End the process, with SIGKILL if SIGTERM does not, and read the rest of its output.

        The log is complete then. Safe to call twice.
        """
        if self._process.returncode is None:
            self._signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(_STOP_TIMEOUT_S):
                    await self._process.wait()
            except TimeoutError:
                self._signal(signal.SIGKILL)
        await self._process.wait()
        await asyncio.gather(*self._readers)

    def _signal(self, number: signal.Signals) -> None:
        """Send a signal; do nothing if the process has ended.

        Not by `Process.terminate`: that polls the process first, and if it finds it ended, the
        exit status is gone before asyncio has seen it.
        """
        with suppress(ProcessLookupError):
            os.kill(self._process.pid, number)

    @asynccontextmanager
    async def client(self) -> AsyncIterator[ControlClient]:
        """Connect to the control socket as soon as the process serves it.

        Raises MachineError with the process's last message if it ends before that, and
        ControlError after 20 s.
        """
        async with AsyncExitStack() as stack:
            deadline = time.monotonic() + _START_TIMEOUT_S
            while True:
                try:
                    client = await stack.enter_async_context(connect(self.control))
                    break
                except ControlError:
                    if self._process.returncode is not None:
                        raise await self.ended_early() from None
                    if time.monotonic() > deadline:
                        raise
                    await asyncio.sleep(_POLL_S)
            yield client

    async def _read_console(self, stream: StreamReader) -> None:
        async for line in stream:
            self.log.add(line.decode("ascii", "replace"))
        self.log.end()

    async def _read_messages(self, stream: StreamReader) -> None:
        async for line in stream:
            self._messages.append(line.decode("utf-8", "replace").rstrip())


@asynccontextmanager
async def start(name: str, control: Path, options: Sequence[str]) -> AsyncIterator[VmProcess]:
    """Run `tagalong run` with `options` for the length of a `with` block.

    The process has ended when the block ends, whatever happened. If this process is killed, the
    kernel ends that one too.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tagalong", "run",
        "--control", str(control), "--exit-with-parent", str(os.getpid()), *options,
        stdin=DEVNULL, stdout=PIPE, stderr=PIPE, limit=_MAX_LINE_BYTES,
    )  # fmt: skip
    vm = VmProcess(name, control, process)
    try:
        yield vm
    finally:
        await vm.stop()
