"""The lab's cache of fetched and built pieces.

A piece is a folder `NAME/KEY`. Its key is a digest of everything it was made from, so that
several checkouts share one cache. A piece is made in a folder beside its final place and
renamed when it is complete: an interrupted set-up repeats that piece alone. Large downloads
stay outside of the pieces until they are complete.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from tagalong.errors import LabSetupError

Record = dict[str, object]

_RECORD = "record.json"
_PARTIAL = ".partial"
_KEY_DIGITS = 16
_KEPT = 4


def default_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Return the cache's folder by the XDG base directory specification.

    >>> default_folder({"XDG_CACHE_HOME": "/var/cache/me"})
    PosixPath('/var/cache/me/tagalong/lab')
    """
    named = Path(environment.get("XDG_CACHE_HOME", ""))
    # The specification: a relative path is to be ignored.
    base = named if named.is_absolute() else Path("~/.cache").expanduser()
    return base / "tagalong" / "lab"


class Cache:
    """The cache in the folder `root`, which is created if it does not exist.

    `waiting` is called before waiting for another process that makes a piece. Raises
    LabSetupError if the folder cannot be created.
    """

    def __init__(self, root: Path, waiting: Callable[[], None] = lambda: None) -> None:
        self.root = root.absolute()
        self._waiting = waiting
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            self._lock_file.touch()
        except OSError as error:
            raise LabSetupError(
                f"cannot use {root} as the lab's folder: {error.strerror}; name another with --dir"
            ) from error

    def folder(self, name: str) -> Path:
        """Return the folder `name` of the cache, which is created if it does not exist."""
        folder = self.root / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def piece(self, name: str, made_from: Record, make: Callable[[Path], Record]) -> "CachedPiece":
        """Return the piece `name` made from `made_from` (JSON values); make it if it is missing.

        `make` gets an empty folder to fill and returns facts about the piece. Processes make
        one piece at a time. If `make` raises, the piece stays missing.
        """
        return self.find(name, made_from) or self._make(name, made_from, make)

    def find(self, name: str, made_from: Record) -> "CachedPiece | None":
        """Return the piece if it is complete, else None."""
        folder = self._place(name, made_from)
        try:
            facts = json.loads((folder / _RECORD).read_text())["facts"]
            os.utime(folder / _RECORD)
        except (OSError, ValueError, LookupError, TypeError):
            return None
        return CachedPiece(folder, facts)

    def _make(self, name: str, made_from: Record, make: Callable[[Path], Record]) -> "CachedPiece":
        with self._locked():
            made_meanwhile = self.find(name, made_from)
            if made_meanwhile is not None:
                return made_meanwhile
            folder = self._place(name, made_from)
            for leftover in folder.parent.glob(f"*{_PARTIAL}"):
                shutil.rmtree(leftover, ignore_errors=True)
            # With the pid, because a tool of an interrupted set-up may still be writing.
            partial = folder.with_name(f"{folder.name}.{os.getpid()}{_PARTIAL}")
            partial.mkdir(parents=True)
            facts = make(partial)
            _write(partial / _RECORD, {"made_from": made_from, "facts": facts})
            shutil.rmtree(folder, ignore_errors=True)
            partial.rename(folder)
            self._prune(name)
            return CachedPiece(folder, facts)

    @property
    def _lock_file(self) -> Path:
        return self.root / "lock"

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self._lock_file.open("rb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._waiting()
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def forget(self, name: str) -> None:
        """Remove all pieces called `name`."""
        shutil.rmtree(self.root / name, ignore_errors=True)

    def _place(self, name: str, made_from: Record) -> Path:
        text = json.dumps(made_from, sort_keys=True)
        return self.root / name / hashlib.sha256(text.encode()).hexdigest()[:_KEY_DIGITS]

    def _prune(self, name: str) -> None:
        """Keep the pieces used last: other checkouts may be using theirs."""
        records = sorted((self.root / name).glob(f"*/{_RECORD}"), key=_age, reverse=True)
        for record in records[_KEPT:]:
            shutil.rmtree(record.parent, ignore_errors=True)


class CachedPiece:
    """A complete piece: its folder, and the facts recorded when it was made."""

    def __init__(self, folder: Path, facts: Record) -> None:
        self.folder = folder
        self.facts = facts

    def text(self, fact: str) -> str:
        """Return the fact `fact`, which must be a string."""
        return cast("str", self.facts[fact])

    @property
    def key(self) -> str:
        """Return the digest of everything the piece was made from."""
        return self.folder.name


def digest_of_files(root: Path, files: list[Path]) -> str:
    """Return a digest of the names, relative to `root`, and the contents of `files`."""
    digest = hashlib.sha256()
    for file in files:
        data = file.read_bytes()
        digest.update(f"{file.relative_to(root)}\0{len(data)}\0".encode())
        digest.update(data)
    return digest.hexdigest()


def identity_of(path: Path) -> str:
    """Return a digest that changes with the file, or with any file below the folder, at `path`.

    Covers names, sizes and modification times. Raises LabSetupError if nothing is at `path`.
    """
    try:
        resolved = path.resolve(strict=True)
        files = sorted(p for p in resolved.rglob("*") if not p.is_symlink()) or [resolved]
        facts = [(str(f), f.lstat().st_size, f.lstat().st_mtime_ns) for f in files]
    except OSError as error:
        raise LabSetupError(f"cannot read {path}: {error.strerror}") from error
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def _age(record: Path) -> float:
    try:
        return record.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _write(path: Path, record: Record) -> None:
    with path.open("w") as out:
        json.dump(record, out, indent=2)
        out.flush()
        os.fsync(out.fileno())
