"""The records of a scan on disk, a line of JSON each: a scan goes on where it stopped.

All lines of one file are written at once. A scan that was killed leaves at most one file whose
lines are not all there; they are cut off when the scan goes on.
"""

import errno
import fcntl
import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tagalong.errors import HostError, UsageError
from tagalong.files import name_failure, require_file_name
from tagalong.scan.items import Item
from tagalong.scan.record import CrashRecord

_SYNC_EVERY_S: Final = 2.0
_MAX_LINE_BYTES: Final = 1 << 20


class Journal:
    """A file of records, locked while it is open; used in a `with` statement.

    `fresh` empties it first. Raises HostError if it cannot be opened, is no regular file, or
    another scan writes to it; UsageError if it holds something else than records.
    """

    def __init__(self, path: Path, *, fresh: bool = False) -> None:
        self._path = path
        require_file_name(path)
        self._fd = self._opened()
        try:
            if fresh:
                os.ftruncate(self._fd, 0)
            self.done = self._read()
        except BaseException:
            os.close(self._fd)
            raise
        self._synced = time.monotonic()

    def _opened(self) -> int:
        """Return the locked file that has the name now: a scan that ends may remove its own."""
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK
        while True:
            try:
                fd = os.open(self._path, flags, 0o666)
            except (OSError, ValueError) as error:
                raise name_failure("cannot open", self._path, error) from error
            try:
                self._lock(fd)
                if self._has_name(fd):
                    return fd
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)

    def _has_name(self, fd: int) -> bool:
        try:
            return os.path.samestat(os.fstat(fd), os.stat(self._path))
        except FileNotFoundError:
            return False

    def _lock(self, fd: int) -> None:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno == errno.EWOULDBLOCK:
                raise HostError(
                    f"cannot write {self._path}: another scan writes to it; wait for it, or give "
                    "another name"
                ) from None
            raise name_failure("cannot lock", self._path, error) from error

    def _read(self) -> set[Item]:
        """Return the files that are done; cut off what a killed scan left incomplete."""
        done: set[Item] = set()
        complete, missing = 0, 0
        for end, record in self._lines():
            missing = (missing or record.reports) - 1
            if not missing:
                done.add(record.item)
                complete = end
        try:
            os.ftruncate(self._fd, complete)
        except OSError as error:
            raise name_failure("cannot write", self._path, error) from error
        return done

    def _lines(self) -> Iterator[tuple[int, CrashRecord]]:
        """Yield each whole line's end and record."""
        end = 0
        with open(self._path, "rb") as file:
            while (line := file.readline(_MAX_LINE_BYTES)).endswith(b"\n"):
                try:
                    record = CrashRecord.from_json(json.loads(line))
                except ValueError as error:
                    raise UsageError(
                        f"cannot go on with {self._path}: at {end:#x} is no record of a scan "
                        f"({error}); give another name, or --fresh to write over it"
                    ) from error
                end += len(line)
                yield end, record
            if len(line) == _MAX_LINE_BYTES:
                raise UsageError(
                    f"cannot go on with {self._path}: the line at {end:#x} is too long for a "
                    "record of a scan; give another name, or --fresh to write over it"
                )

    def add(self, records: Sequence[CrashRecord]) -> None:
        """Append all records of one file. Raises HostError if it cannot be written."""
        lines = "".join(json.dumps(each.to_json()) + "\n" for each in records).encode()
        try:
            while lines:
                lines = lines[os.write(self._fd, lines) :]
            if time.monotonic() > self._synced + _SYNC_EVERY_S:
                os.fsync(self._fd)
                self._synced = time.monotonic()
        except OSError as error:
            raise name_failure("cannot write", self._path, error) from error

    def remove(self) -> None:
        """Remove the file, while no other scan can have it. Raises HostError."""
        try:
            os.unlink(self._path)
        except OSError as error:
            raise name_failure("cannot remove", self._path, error) from error

    def records(self) -> Iterator[CrashRecord]:
        """Yield all records, those of earlier scans too."""
        for _, record in self._lines():
            yield record

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._fd)
