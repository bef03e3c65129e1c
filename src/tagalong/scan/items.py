"""What to explain: local files, or what any fsspec URL names.

fsspec is an extra (`scan`), and so is each kind of storage: s3fs for s3://, gcsfs for gs://.
"""

import os
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from glob import glob, has_magic
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from tagalong.errors import HostError, UsageError
from tagalong.files import name_failure
from tagalong.scan.deadline import within

EXTRA: Final = "pip install 'tagalong[scan]'"

_SCHEME = "://"
_FILE = "file://"
_WEB = ("http://", "https://")
_WATCH_S: Final = 0.5


@dataclass(frozen=True)
class Item:
    """One file: a path or a URL, its size, and a stamp that changes with its content.

    A path that is not UTF-8 is a file:// URL, so that every record of it can be written.
    """

    url: str
    size_bytes: int
    stamp: str

    def to_json(self) -> dict[str, Any]:
        """Return the item as plain values."""
        return dict(vars(self))

    @property
    def identity(self) -> tuple[str, int, str]:
        """Return what tells it from every other file and from its own later content."""
        return self.url, self.size_bytes, self.stamp


def items_of(patterns: Sequence[str], *, timeout_s: float = 300.0) -> Iterator[Item]:
    """Yield the files that patterns name, each once, in order of the patterns and of names.

    A pattern is a file, a folder (all files in it and below), or has *, ** and ?; a path, or a URL
    of anything that fsspec opens. A URL of http is a file unless it ends in "/". Raises UsageError
    for a pattern that names nothing, HostError if a storage cannot be listed, does not answer
    within `timeout_s`, or its package is not installed.
    """
    seen: set[str] = set()
    for pattern in patterns:
        is_empty = True
        for item in _matching(pattern, timeout_s):
            is_empty = False
            if item.url not in seen:
                seen.add(item.url)
                yield item
        if is_empty:
            raise UsageError(
                f"{pattern} names no file: give a file, a folder, or a pattern of them"
            )


def _matching(pattern: str, timeout_s: float) -> Iterator[Item]:
    if _SCHEME not in pattern:
        yield from _local(pattern)
    elif pattern.startswith(_FILE):
        yield from _local(_path_of(pattern))
    else:
        yield from _remote(pattern, timeout_s)


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
            yield Item(_url_of(path), 0, "")
            continue
        if not os.path.isdir(path):
            yield Item(_url_of(path), status.st_size, str(status.st_mtime_ns))


def _url_of(path: str) -> str:
    """Return the absolute path, as a URL if it is not UTF-8."""
    whole = os.path.abspath(path)
    try:
        whole.encode()
    except UnicodeEncodeError:
        return Path(whole).as_uri()
    return whole


def _path_of(url: str) -> str:
    """Return the path that a file:// URL names."""
    return os.fsdecode(unquote_to_bytes(url.removeprefix(_FILE)))


def _remote(pattern: str, timeout_s: float) -> Iterator[Item]:
    files, path = _file_system(pattern)
    try:
        found = within(timeout_s, lambda: _listed(files, path))
    except FileNotFoundError:
        return
    except TimeoutError as error:
        raise HostError(
            f"cannot list {pattern}: there is no answer within {timeout_s:g} s; see that the "
            "storage can be reached, or give it more with --timeout"
        ) from error
    except Exception as error:  # whatever a storage's package raises
        raise HostError(f"cannot list {pattern}: {_reason(error)}") from error
    for name, info in sorted(found.items()):
        if info.get("type") != "directory":
            stamp = next((info[key] for key in _STAMPS if info.get(key)), "")
            yield Item(files.unstrip_protocol(name), int(info.get("size") or 0), str(stamp))


def _listed(files: Any, path: str) -> dict[str, dict[str, Any]]:
    """Return what a path of a storage names, with what is known of each."""
    found: dict[str, dict[str, Any]]
    if has_magic(path):
        found = files.glob(path, detail=True)
    # Whether a URL of the web is a folder, fsspec finds out by reading all of what it names.
    elif path.startswith(_WEB) and not path.endswith("/"):
        found = {path: files.info(path)}
    elif files.isdir(path):
        found = files.find(path, detail=True)
    else:
        found = {path: files.info(path)}
    return found


# What storages call it: S3 and GCS, HTTP and Azure, file systems.
_STAMPS: Final = ("ETag", "etag", "md5Hash", "LastModified", "last_modified", "mtime")


def _file_system(url: str) -> tuple[Any, str]:
    try:
        from fsspec.core import url_to_fs  # noqa: PLC0415 (an extra)

        files, path = url_to_fs(url, **_without_deadline(url))
    except ImportError as error:
        if error.name == "fsspec":
            raise HostError(f"{url} needs fsspec, which is not installed: {EXTRA}") from error
        raise HostError(f"cannot open {url}: {_reason(error)}") from error
    except ValueError as error:
        raise UsageError(f"cannot open {url}: {_reason(error)}") from error
    return files, path


def _without_deadline(url: str) -> dict[str, Any]:
    """Return what lets a file of the web come for as long as it comes.

    aiohttp gives up after five minutes in all otherwise; here who waits watches the progress. What
    the user's configuration says goes first.
    """
    if not url.startswith(_WEB):
        return {}
    from aiohttp import ClientTimeout  # noqa: PLC0415 (an extra, and fsspec needs it for these)
    from fsspec.config import conf  # noqa: PLC0415 (an extra)

    own = conf.get(url.partition(_SCHEME)[0], {}).get("client_kwargs", {})
    return {"client_kwargs": {"timeout": ClientTimeout(total=None), **own}}


@contextmanager
def local_copy(item: Item, progress: Callable[[], None] = lambda: None) -> Iterator[Path]:
    """Yield a path to read an item from: its own, or that of a copy.

    The copy has no name of its own: nothing is left of it, however the process ends. `progress` is
    called from another thread while parts of it arrive.

    Raises HostError if it cannot be fetched, or is no regular file.
    """
    if item.url.startswith(_FILE) or _SCHEME not in item.url:
        path = Path(_path_of(item.url) if item.url.startswith(_FILE) else item.url)
        _require_regular(path)
        yield path
        return
    files, name = _file_system(item.url)
    with TemporaryFile() as copy:
        path = Path(f"/proc/self/fd/{copy.fileno()}")
        try:
            with _watched(copy.fileno(), progress):
                files.get_file(name, str(path))
        except OSError as error:
            raise HostError(
                f"cannot fetch {item.url}: {error.strerror or _reason(error)}"
            ) from error
        except Exception as error:  # whatever a storage's package raises
            raise HostError(f"cannot fetch {item.url}: {_reason(error)}") from error
        yield path


def _require_regular(path: Path) -> None:
    """Raise HostError for a FIFO, which would never end, and a socket, which may be a VM's."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        raise name_failure("cannot open", path, error) from error
    if not stat.S_ISREG(mode):
        raise HostError(f"cannot open {path}: it is no regular file; a scan reads nothing else")


@contextmanager
def _watched(fd: int, progress: Callable[[], None]) -> Iterator[None]:
    """Call `progress` now and then while a file is written to, whoever writes it."""
    is_over = threading.Event()

    def watch() -> None:
        before = 0
        while not is_over.wait(_WATCH_S):
            now = os.fstat(fd).st_mtime_ns
            if now != before:
                progress()
            before = now

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
