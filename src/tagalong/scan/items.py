"""What to explain: local files, or what any fsspec URL names.

fsspec is an extra (`scan`), and so is each kind of storage: s3fs for s3://, gcsfs for gs://.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from glob import glob, has_magic
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from tagalong.errors import HostError, UsageError
from tagalong.files import name_failure

EXTRA: Final = "pip install 'tagalong[scan]'"

_SCHEME = "://"


@dataclass(frozen=True)
class Item:
    """One file: a path or a URL, its size, and a stamp that changes with its content."""

    url: str
    size_bytes: int
    stamp: str

    @property
    def identity(self) -> tuple[str, int, str]:
        """Return what tells it from every other file and from its own later content."""
        return self.url, self.size_bytes, self.stamp


def items_of(patterns: Sequence[str]) -> Iterator[Item]:
    """Yield the files that patterns name, each once, in order of the patterns and of names.

    A pattern is a file, a folder (all files in it and below), or has *, ** and ?; a path, or a URL
    of anything that fsspec opens. Raises UsageError for a pattern that names nothing, HostError if
    a storage cannot be listed or its package is not installed.
    """
    seen: set[str] = set()
    for pattern in patterns:
        is_empty = True
        for item in _remote(pattern) if _SCHEME in pattern else _local(pattern):
            is_empty = False
            if item.url not in seen:
                seen.add(item.url)
                yield item
        if is_empty:
            raise UsageError(
                f"{pattern} names no file: give a file, a folder, or a pattern of them"
            )


def _local(pattern: str) -> Iterator[Item]:
    if os.path.isdir(pattern):
        paths = [os.path.join(at, n) for at, _, names in os.walk(pattern) for n in names]
    elif has_magic(pattern) and not os.path.lexists(pattern):
        paths = glob(pattern, recursive=True)
    else:
        paths = [pattern] if os.path.lexists(pattern) else []
    for path in sorted(paths):
        try:
            status = os.stat(path)
        except OSError:
            # A link that leads nowhere: its helper says so.
            yield Item(os.path.abspath(path), 0, "")
            continue
        if not os.path.isdir(path):
            yield Item(os.path.abspath(path), status.st_size, str(status.st_mtime_ns))


def _remote(pattern: str) -> Iterator[Item]:
    files, path = _file_system(pattern)
    try:
        if has_magic(path):
            found = files.glob(path, detail=True)
        elif files.isdir(path):
            found = files.find(path, detail=True)
        else:
            found = {path: files.info(path)}
    except FileNotFoundError:
        return
    except Exception as error:  # whatever a storage's package raises
        raise HostError(f"cannot list {pattern}: {_reason(error)}") from error
    for name, info in sorted(found.items()):
        if info.get("type") != "directory":
            stamp = next((info[key] for key in _STAMPS if info.get(key)), "")
            yield Item(files.unstrip_protocol(name), int(info.get("size") or 0), str(stamp))


# What storages call it: S3 and GCS, HTTP and Azure, file systems.
_STAMPS: Final = ("ETag", "etag", "md5Hash", "LastModified", "last_modified", "mtime")


def _file_system(url: str) -> tuple[Any, str]:
    try:
        from fsspec.core import url_to_fs  # noqa: PLC0415 (an extra)
    except ImportError as error:
        raise HostError(f"{url} needs fsspec, which is not installed: {EXTRA}") from error
    try:
        files, path = url_to_fs(url)
    except ImportError as error:
        raise HostError(f"cannot open {url}: {_reason(error)}") from error
    except ValueError as error:
        raise UsageError(f"cannot open {url}: {_reason(error)}") from error
    return files, path


@contextmanager
def local_copy(item: Item) -> Iterator[Path]:
    """Yield a path to read an item from: its own, or that of a copy that is removed afterwards.

    Raises HostError if it cannot be fetched.
    """
    if _SCHEME not in item.url:
        yield Path(item.url)
        return
    files, path = _file_system(item.url)
    with TemporaryDirectory(prefix="tagalong-scan-") as folder:
        # The name's end says something to a reader: .zst.
        target = Path(folder, "crash" + "".join(Path(path).suffixes[-2:])[:40])
        try:
            files.get_file(path, str(target))
        except OSError as error:
            raise name_failure("cannot fetch", item.url, error) from error
        except Exception as error:  # whatever a storage's package raises
            raise HostError(f"cannot fetch {item.url}: {_reason(error)}") from error
        yield target


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
