"""Where a migration goes: tcp:HOST:PORT, tcp:[IPV6]:PORT or unix:PATH, as QEMU writes it."""

from dataclasses import dataclass
from pathlib import Path

from tagalong.errors import UsageError

_MAX_PORT = 0xFFFF
_FORMS = "tcp:HOST:PORT, tcp:[IPV6]:PORT or unix:PATH"


@dataclass(frozen=True)
class TcpAddress:
    """A TCP endpoint; port 0 asks a listener for any that is free."""

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


Address = TcpAddress | UnixAddress


def parse_address(uri: str) -> Address:
    """Return the address that a URI names. Raises UsageError if it names none.

    >>> parse_address("tcp:[::1]:4444")
    TcpAddress(host='::1', port=4444)
    """
    scheme, _, rest = uri.partition(":")
    if scheme == "unix" and rest:
        return UnixAddress(Path(rest))
    if scheme == "tcp":
        return _parse_tcp(uri, rest)
    raise UsageError(f"{uri!r} is no migration address: it must be {_FORMS}")


def _parse_tcp(uri: str, rest: str) -> TcpAddress:
    host, _, port = rest.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise UsageError(f"{uri!r}: an IPv6 address stands in brackets, as in tcp:[::1]:4444")
    if not host:
        raise UsageError(f"{uri!r} names no host: it must be {_FORMS}")
    if not (port.isascii() and port.isdigit()) or int(port) > _MAX_PORT:
        raise UsageError(f"{uri!r}: {port!r} is no port, which is 0 to {_MAX_PORT}")
    return TcpAddress(host, int(port))
