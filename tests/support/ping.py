"""ping in the background, and when its answers came."""

import re
import subprocess
import threading
import time
from dataclasses import dataclass
from typing import Final, Self

PING_INTERVAL_S: Final = 0.2

_ANSWER: Final = re.compile(r"\bseq=(\d+) .*time=([\d.]+) ms")


@dataclass(frozen=True)
class Answer:
    """An answer to request `number`, from 0: when it came, by the host's clock."""

    number: int
    time_s: float


class Pinger:
    """Pings `address` within a `with` block, five times a second."""

    def __init__(self, address: str) -> None:
        self.answers: list[Answer] = []
        self._process = subprocess.Popen(
            ["busybox", "ping", "-i", str(PING_INTERVAL_S), address],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._thread = threading.Thread(target=self._read)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._thread.join()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                if found := _ANSWER.search(line):
                    self.answers.append(Answer(int(found[1]), time.monotonic()))
