"""A Dask cluster and an S3 server of real processes, for tests."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

TIMEOUT_S = 120.0
_ADDRESS = re.compile(r"(tcp://127\.0\.0\.1:\d+)")


@dataclass
class Cluster:
    """A scheduler and workers, each a process of its own."""

    address: str
    scheduler: subprocess.Popen[bytes]
    environment: dict[str, str]
    folder: Path
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def add_worker(self) -> None:
        """Start a worker with one thread; without a nanny, so that SIGKILL ends it for good."""
        number = len(self.workers)
        with (self.folder / f"worker-{number}.log").open("wb") as log:
            self.workers.append(
                subprocess.Popen(
                    [sys.executable, "-m", "distributed.cli.dask_worker", self.address,
                     "--no-nanny", "--no-dashboard", "--nthreads", "1", "--host", "127.0.0.1",
                     "--local-directory", str(self.folder / f"worker-{number}")],
                    stdout=log, stderr=log, env=self.environment,
                )
            )  # fmt: skip

    def end_scheduler(self) -> None:
        """End the scheduler."""
        _end(self.scheduler)

    def freeze_scheduler(self) -> None:
        """Let the scheduler keep its connections and say nothing any more."""
        self.scheduler.send_signal(signal.SIGSTOP)

    def kill_worker(self, number: int) -> None:
        """End a worker as the host would that runs out of memory."""
        self.workers[number].send_signal(signal.SIGKILL)
        self.workers[number].wait()


@contextmanager
def dask_cluster(folder: Path, workers: int, **environment: str) -> Iterator[Cluster]:
    """Run a cluster for a `with` block."""
    whole = {**os.environ, **environment, "PYTHONWARNINGS": "ignore"}
    log = folder / "scheduler.log"
    with log.open("wb") as output:
        scheduler = subprocess.Popen(
            [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1",
             "--port", "0", "--no-dashboard", "--no-show"],
            stdout=output, stderr=output, env=whole,
        )  # fmt: skip
    cluster = None
    try:
        cluster = Cluster(_wait_for(log, _ADDRESS, scheduler), scheduler, whole, folder)
        for _ in range(workers):
            cluster.add_worker()
        yield cluster
    finally:
        for process in (*(cluster.workers if cluster else ()), scheduler):
            _end(process)


@contextmanager
def s3_server(folder: Path) -> Iterator[str]:
    """Run moto's S3 server for a `with` block; yield its URL."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with (folder / "s3.log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
            stdout=log, stderr=log,
        )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            assert server.poll() is None, (folder / "s3.log").read_text()
            with suppress(OSError), urllib.request.urlopen(url, timeout=5):
                break
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield url
    finally:
        _end(server)


def _wait_for(log: Path, pattern: re.Pattern[str], process: subprocess.Popen[bytes]) -> str:
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        if matched := pattern.search(log.read_text()):
            return matched[1]
        assert process.poll() is None, log.read_text()
        time.sleep(0.05)
    raise AssertionError(log.read_text())


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
