"""A process that explains items, so that no file can end the scan.

    python -m tagalong.scan.helper

Lines of JSON with an item each on standard input, a line with the records of each on standard
output, until the input ends. While a file is being fetched, blanks in front of that line say that
more of it arrives. A file may make the helper end (SIGBUS of a core that is cut while it is mapped,
SIGKILL when memory is short) or never answer. `Helper` starts another then. One that has nothing to
do for a minute ends: those in the workers of a cluster are not told when the scan is over.
"""

import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import IO, Final, cast

from tagalong.errors import HostError
from tagalong.scan.items import Item
from tagalong.scan.record import CrashRecord

MAX_ANSWER_BYTES: Final = 256 << 20
"""A log of 100,000 reports makes less."""

_ARRIVES: Final = b" "
_AHEAD_BYTES: Final = 32 << 10  # a pipe holds 64 KiB
_READ_BYTES: Final = 1 << 16
_IDLE_S: Final = 60.0
_TRIES: Final = 3


class HelperEndedError(HostError):
    """The helper ended before it answered."""


class TimeUpError(HostError):
    """The helper was ended, because its time was up or its answer is too large."""


class Helper:
    """One helper process, started when it is needed; used by one thread at a time.

    `timeout_s`: how long it may take for an item, from the last part of it that arrived.
    """

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._received = bytearray()
        self._is_over = False
        self._lock = threading.Lock()  # so that none is started once it is over

    def explain(self, items: Sequence[Item]) -> list[list[CrashRecord]]:
        """Return the records of each item; one with the reason if there are none.

        Raises HostError if no helper can be started.
        """
        done: list[list[CrashRecord]] = []
        tries = 0  # of the first item that is not done
        while len(done) < len(items):
            before, started = len(done), time.perf_counter()
            try:
                for records in self._ask(items[before:]):
                    done.append(records)
                    started = time.perf_counter()
                continue
            except HelperEndedError as error:
                tries = tries + 1 if len(done) == before else 1
                reason, is_lost = str(error), tries == _TRIES
            except TimeUpError as error:
                reason, is_lost = str(error), True
            self.close()
            if is_lost:
                took, tries = time.perf_counter() - started, 0
                lost = items[len(done)]
                done.append([CrashRecord.of_failure(lost, reason, "HelperEnded", took)])
        return done

    def _ask(self, items: Sequence[Item]) -> Iterator[list[CrashRecord]]:
        """Ask for as many of the items as a pipe holds, so that neither side waits for the other.

        Yields their records in order.
        """
        process = self._running()
        lines, size = [], 0
        for item in items:
            lines.append(json.dumps(item.to_json()).encode() + b"\n")
            size += len(lines[-1])
            if size > _AHEAD_BYTES:
                break
        sink = cast("IO[bytes]", process.stdin)
        try:
            sink.write(b"".join(lines))
            sink.flush()
        except OSError:
            raise HelperEndedError(_how_it_ended(process)) from None
        for _ in lines:
            answer = json.loads(self._answer(process))
            yield [CrashRecord.from_json(each) for each in answer]

    def _running(self) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._is_over:
                raise HostError("the scan was ended")
            if self._process is None:
                self._process = _started()
            return self._process

    def _answer(self, process: subprocess.Popen[bytes]) -> bytes:
        """Return the next line."""
        deadline = time.monotonic() + self.timeout_s
        end = self._received.find(b"\n")
        while end < 0:
            searched = len(self._received)
            part = self._part(process, deadline - time.monotonic())
            self._received += part if searched else part.lstrip(_ARRIVES)
            end = self._received.find(b"\n", searched)
            deadline = time.monotonic() + self.timeout_s
            if len(self._received) > MAX_ANSWER_BYTES:
                raise TimeUpError(f"its explanation is larger than {MAX_ANSWER_BYTES} bytes")
        line = bytes(self._received[:end])
        del self._received[: end + 1]
        return line

    def _part(self, process: subprocess.Popen[bytes], left_s: float) -> bytes:
        source = cast("IO[bytes]", process.stdout)
        poll = select.poll()
        poll.register(source, select.POLLIN)
        if left_s <= 0 or not poll.poll(left_s * 1000):
            raise TimeUpError(f"it was not explained within {self.timeout_s:g} s")
        part = os.read(source.fileno(), _READ_BYTES)
        if not part:
            raise HelperEndedError(_how_it_ended(process))
        return part

    def give_up(self) -> None:
        """End the process, from any thread, and start no other."""
        with self._lock:
            self._is_over = True
            if self._process is not None:
                self._process.kill()

    def close(self) -> None:
        """End the process. Safe to call twice; the next item starts another."""
        process, self._process = self._process, None
        self._received.clear()
        if process is None:
            return
        process.kill()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(OSError):  # what was written last has no reader
                    pipe.close()
        process.wait()


def _started() -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "tagalong.scan.helper"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
    except OSError as error:
        raise HostError(f"cannot start a process to explain crashes: {error}") from error


def _how_it_ended(process: subprocess.Popen[bytes]) -> str:
    status = process.wait()
    how = f"by {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
    return f"the process that explained it ended {how}"


def serve(lines: Iterable[bytes], answers: int) -> None:
    """Answer items until there are no more; `answers` is the descriptor to write to."""
    from tagalong.scan.explain_one import explain_item  # noqa: PLC0415 (not in the scan's process)

    def arrives() -> None:
        os.write(answers, _ARRIVES)

    for line in lines:
        records = explain_item(Item(**json.loads(line)), arrives)
        answer = json.dumps([each.to_json() for each in records]).encode() + b"\n"
        while answer:
            answer = answer[os.write(answers, answer) :]


def _until_idle(source: int) -> Iterator[bytes]:
    """Yield the lines that come to a descriptor, until none has come for a minute."""
    waiting = b""
    while True:
        *lines, waiting = waiting.split(b"\n")
        yield from lines
        if not select.select([source], [], [], _IDLE_S)[0]:
            return
        part = os.read(source, _READ_BYTES)
        if not part:
            return
        waiting += part


def main() -> None:
    """Be the helper."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal: the scan decides
    # Whatever a library prints must not be taken for an answer.
    answers = os.dup(1)
    os.dup2(2, 1)
    serve(_until_idle(sys.stdin.fileno()), answers)


if __name__ == "__main__":
    main()
