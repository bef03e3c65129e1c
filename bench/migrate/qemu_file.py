"""QEMU's own way to a file and back: mapped-ram with multifd, of a paused guest with tags."""

import asyncio
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

from qemu.qmp import QMPClient

from bench.migrate.guest import Planes
from bench.migrate.qemu import (
    QemuProcess,
    completed,
    configure_file,
    file_backend,
    place_of_tags,
    ready_backend,
    shared_memory,
    write_ram,
)

_LOOK_UP_S = 0.01


class SavedQemu:
    """A paused QEMU with `content`, which saves its guest to files again and again."""

    def __init__(self, process: QemuProcess, client: QMPClient, runner: asyncio.Runner) -> None:
        self._process = process
        self._client = client
        self._runner = runner

    @classmethod
    @contextmanager
    def of(cls, content: Planes) -> Iterator[Self]:
        """Give it for a `with` block; its RAM is a file in shared memory."""
        with TemporaryDirectory(prefix="tagalong-bench-", dir=shared_memory()) as scratch:
            ram, control = Path(scratch) / "ram", Path(scratch) / "qmp"
            write_ram(ram, content)
            options = ["-object", file_backend(ram, content.ram_bytes)]
            with (
                QemuProcess(control, options, content.ram_bytes) as process,
                asyncio.Runner() as runner,
            ):
                client = QMPClient("saved")
                runner.run(client.connect(str(control)))
                process.fill_tags(content, runner.run(place_of_tags(client)))
                yield cls(process, client, runner)
                runner.run(client.disconnect())

    def save(self, path: Path, *, is_direct: bool = False) -> tuple[float, float]:
        """Save to `path`, past the page cache if `is_direct`.

        Returns the seconds that QEMU says, and those until the file was on its disk: QEMU's do not
        count what the kernel still has to write.
        """
        return self._runner.run(self._save(path, is_direct=is_direct))

    async def _save(self, path: Path, *, is_direct: bool) -> tuple[float, float]:
        await configure_file(self._client, is_direct=is_direct)
        began = time.perf_counter()
        await self._client.execute("migrate", {"uri": f"file:{path}"})
        facts = await completed(self._client)
        seconds = time.perf_counter() - began
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
        synced = time.perf_counter() - began
        # A guest that has migrated can migrate again after a reset, which leaves RAM and tags.
        await self._client.execute("system_reset")
        await self._until_reset()
        return min(seconds, float(facts["total-time"]) / 1e3), synced

    async def _until_reset(self) -> None:
        while True:
            facts = await self._client.execute("query-status")
            if facts["status"] == "prelaunch":  # type: ignore[index]
                return
            await asyncio.sleep(_LOOK_UP_S)


def load(path: Path, content: Planes, *, is_direct: bool = False) -> float:
    """Load a guest from `path` into a QEMU whose memory is there; return the seconds it took."""
    with TemporaryDirectory(prefix="tagalong-bench-", dir=shared_memory()) as scratch:
        control = Path(scratch) / "qmp"
        options = ["-object", ready_backend(content), "-incoming", "defer"]
        with QemuProcess(control, options, content.ram_bytes) as process:
            return asyncio.run(_load(process, path, is_direct=is_direct))


async def _load(process: QemuProcess, path: Path, *, is_direct: bool) -> float:
    client = QMPClient("loaded")
    await client.connect(str(process.socket))
    process.touch_tags(await place_of_tags(client))
    await configure_file(client, is_direct=is_direct)
    began = time.perf_counter()
    await client.execute("migrate-incoming", {"uri": f"file:{path}"})
    await completed(client)
    seconds = time.perf_counter() - began
    await client.disconnect()
    return seconds
