"""Where a migration goes: tcp:, unix:, fd:, exec: and file: URIs, as QEMU writes them.

tcp, unix and an fd that is a socket are connections: a peer answers. A file, what a command
(exec:) reads or writes, and an fd that is a pipe or a file go one way; what that
changes is in `tagalong.migrate.keeper`.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from tagalong.errors import UsageError

_MAX_PORT = 0xFFFF
_MAX_FD = 0x7FFF_FFFF
_MAX_OFFSET = (1 << 63) - 1
_OFFSET = ",offset="
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")
_DECIMAL = re.compile(r"[0-9]{1,19}")
_HEXADECIMAL = re.compile(r"0[xX][0-9a-fA-F]{1,16}")
_FORMS = "tcp:HOST:PORT, tcp:[IPV6]:PORT, unix:PATH, fd:NUMBER, fd:NAME, exec:COMMAND or file:PATH"


@dataclass(frozen=True)
class TcpAddress:
    """A TCP endpoint; with port 0 a listener gets any port that is free."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"tcp:{host}:{self.port}"


@dataclass(frozen=True)
class UnixAddress:
    """A Unix socket in the file system."""

    path: Path

    def __str__(self) -> str:
        return f"unix:{self.path}"


@dataclass(frozen=True)
class FdAddress:
    """An open descriptor: a connected stream socket, a pipe or a file.

    `name` is the number under which this process inherited it, in decimal, or the name that QMP's
    getfd gave it.
    """

    name: str

    @property
    def number(self) -> int | None:
        """Return the number, None for a name."""
        return int(self.name) if self.name.isdecimal() else None

    @staticmethod
    def check_name(name: str) -> None:
        """Raise UsageError for what cannot be a name: QEMU's rule, and no control characters."""
        if not _NAME.fullmatch(name):
            raise UsageError(
                f"{name!r} cannot be a descriptor's name: it must begin with a letter and have "
                "letters, digits, '-', '.' and '_', 64 at most"
            )

    def __str__(self) -> str:
        return f"fd:{self.name}"


@dataclass(frozen=True)
class ExecAddress:
    """A shell command: it reads the stream from its standard input, or writes it to its output."""

    command: str

    def __str__(self) -> str:
        return f"exec:{self.command}"


@dataclass(frozen=True)
class FileAddress:
    """A file, in which the stream starts at `offset` (bytes)."""

    path: Path
    offset: int = 0

    def __str__(self) -> str:
        return f"file:{self.path}" + (f"{_OFFSET}{self.offset:#x}" if self.offset else "")


SocketAddress = TcpAddress | UnixAddress
Address = SocketAddress | FdAddress | ExecAddress | FileAddress


def parse_address(uri: str) -> Address:
    """Return the address that a URI names. Raises UsageError for anything else.

    >>> parse_address("tcp:[::1]:4444")
    TcpAddress(host='::1', port=4444)
    """
    if not isinstance(uri, str) or "\0" in uri:
        raise UsageError(f"{uri!r} is not a migration address: it must be a text without NUL")
    scheme, _, rest = uri.partition(":")
    match scheme:
        case "tcp":
            return _parse_tcp(uri, rest)
        case "unix" if rest:
            return UnixAddress(Path(rest))
        case "fd":
            return _parse_fd(uri, rest)
        case "exec" if rest.strip():
            return ExecAddress(rest)
        case "file" if rest:
            return _parse_file(uri, rest)
    raise UsageError(f"{uri!r} is not a migration address: it must be {_FORMS}")


def _parse_tcp(uri: str, rest: str) -> TcpAddress:
    host, _, port = rest.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise UsageError(f"{uri!r}: put an IPv6 address in brackets, as in tcp:[::1]:4444")
    if not host:
        raise UsageError(f"{uri!r} names no host: it must be {_FORMS}")
    return TcpAddress(host, _number(uri, port, "port", _MAX_PORT))


def _parse_fd(uri: str, rest: str) -> FdAddress:
    if rest[:1].isdecimal():
        return FdAddress(str(_number(uri, rest, "descriptor", _MAX_FD)))
    if not rest:
        raise UsageError(f"{uri!r} names no descriptor: it must be fd:NUMBER or fd:NAME")
    FdAddress.check_name(rest)
    return FdAddress(rest)


def _parse_file(uri: str, rest: str) -> FileAddress:
    path, found, offset = rest.rpartition(_OFFSET)
    if not found:
        return FileAddress(Path(rest))
    if not path:
        raise UsageError(f"{uri!r} names no file: it must be file:PATH or file:PATH,offset=N")
    if _HEXADECIMAL.fullmatch(offset):
        offset = str(int(offset, 16))
    return FileAddress(Path(path), _number(uri, offset, "offset", _MAX_OFFSET))


def _number(uri: str, text: str, what: str, most: int) -> int:
    if _DECIMAL.fullmatch(text) and int(text) <= most:
        return int(text)
    raise UsageError(f"{uri!r}: {text!r} is not a valid {what}, which is 0 to {most}")
