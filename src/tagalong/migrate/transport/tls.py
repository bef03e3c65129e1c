"""TLS 1.3 with certificates on both sides: a peer without a trusted one sends no record.

The certificates are in a folder, under the names that QEMU (tls-creds-x509) and libvirt use:

    ca-cert.pem                         certificates of the authorities that are trusted
    ca-crl.pem                          what they revoked; optional (revocation.py)
    server-cert.pem, server-key.pem     of the destination, which listens
    client-cert.pem, client-key.pem     of the source, which connects

Each side verifies its peer's chain up to ca-cert.pem. The source also requires that the
destination's certificate names the host that it connected to, and the destination may have a
list of the names that it admits. Nothing older than TLS 1.3 is spoken (RFC 8446).
"""

import contextlib
import select
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Final

from tagalong.errors import AuthenticationError, HostError
from tagalong.migrate.transport.channel import Blocked, Buffers, Channel, NativePath
from tagalong.migrate.transport.openssl import (
    OP_ENABLE_KTLS,
    TlsError,
    is_encrypted_by_kernel,
    native_tls,
    read_ahead,
)
from tagalong.migrate.transport.revocation import Revocations, load_revocations

_CA: Final = "ca-cert.pem"
_REVOKED: Final = "ca-crl.pem"

# What OpenSSL says about first bytes that are not TLS, by what they look like.
_NOT_TLS: Final = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG")

_ENCODING_DER: Final = 2  # of _ssl

# What one call of OpenSSL gets: it holds this much back encrypted while the socket is full.
_SEND_BYTES: Final = 256 << 10
_AHEAD_BYTES: Final = 16 << 10


class TlsRole(Enum):
    """Which end of a TLS connection; the values begin the names of its files."""

    SERVER = "server"
    CLIENT = "client"


@dataclass(frozen=True)
class TlsCredentials:
    """The certificates of this side, and what its peer's must be.

    `folder` has the files above. `hostname` is the name that a server must prove, if it is not
    the host that was connected to. `admitted` are the names that a client may have (DNS names or
    the common name of its certificate); any name that an authority certified if it is empty.
    """

    folder: Path
    hostname: str | None = None
    admitted: tuple[str, ...] = ()

    def context(self, role: TlsRole) -> ssl.SSLContext:
        """Return what OpenSSL needs. Raises HostError naming the file that is not as it must be."""
        is_server = role is TlsRole.SERVER
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if is_server else ssl.PROTOCOL_TLS_CLIENT)
        context.sslsocket_class = _ConnectedSocket
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        # The kernel encrypts what is sent, if it and OpenSSL can.
        context.options |= OP_ENABLE_KTLS
        context.verify_mode = ssl.CERT_REQUIRED
        if is_server:
            # Tickets are for coming back without the certificates; and what arrives unasked
            # after the handshake would look like the peer's first byte.
            context.num_tickets = 0
        self._load_authority(context)
        self._load_own(context, role)
        return context

    def _load_authority(self, context: ssl.SSLContext) -> None:
        _load(self.folder / _CA, lambda path: context.load_verify_locations(cafile=path))

    def revocations(self) -> Revocations | None:
        """Return what the authorities revoked. Raises HostError for a file that is damaged."""
        return load_revocations(self.folder / _REVOKED)

    def _load_own(self, context: ssl.SSLContext, role: TlsRole) -> None:
        key = self.folder / f"{role.value}-key.pem"
        _require(key)

        def refuse_password() -> str:
            raise HostError(
                f"{key}: the key is encrypted, and nothing here asks for passwords: decrypt it"
            )

        _load(
            self.folder / f"{role.value}-cert.pem",
            lambda path: context.load_cert_chain(path, key, password=refuse_password),
        )


def _load(path: Path, load: Callable[[Path], None]) -> None:
    _require(path)
    try:
        load(path)
    except (ssl.SSLError, OSError) as error:
        raise HostError(f"{path}: cannot be used for TLS: {_reason(error)}") from error


def _require(path: Path) -> None:
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise HostError(
            f"{path}: cannot be read for TLS: {error.strerror}; a folder for TLS has {_CA} and "
            "for each role a -cert.pem and a -key.pem"
        ) from error


class _ConnectedSocket(ssl.SSLSocket):
    """A socket that was connected when it was wrapped, whatever its peer has done since.

    The ssl module asks getpeername() whether a socket is connected. If a peer's reset answers, the
    module raises and leaves the socket open until the collector finds it. Here the handshake
    fails instead, and closes what it has.
    """

    def getpeername(self) -> Any:
        """Return the peer's address, None if the peer is gone."""
        try:
            return super().getpeername()
        except OSError:
            return None


class Handshake:
    """A TLS handshake on a connected socket, in steps, so that slow peers delay no others.

    Owns `sock` until `channel` was called or `close`. `name` is for people. `is_plain`: the
    peer's first bytes were not TLS.
    """

    def __init__(
        self,
        sock: socket.socket,
        credentials: TlsCredentials,
        context: ssl.SSLContext,
        *,
        server_name: str | None,
        name: str,
    ) -> None:
        """Begin, as the client if there is a `server_name` to prove, else as the server.

        Raises HostError if `server_name` is no host's name, or ca-crl.pem is damaged. If the peer
        has reset the connection already, the first `step` says so.
        """
        sock.setblocking(False)
        self.name = name
        self.is_plain = False
        self._credentials = credentials
        try:
            self._revocations = credentials.revocations()
            if server_name is not None:
                server_name.encode("idna")  # a bad name fails while the socket is still `sock`
            self._sock = context.wrap_socket(
                sock,
                server_side=server_name is None,
                server_hostname=server_name,
                do_handshake_on_connect=False,
            )
            read_ahead(self._sock)
        except (OSError, ValueError) as error:
            sock.close()
            reason = getattr(error, "strerror", None) or error
            raise HostError(f"{name}: cannot begin TLS: {reason}") from error
        except HostError:
            sock.close()
            raise

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._sock.fileno()

    def step(self) -> int | None:
        """Go as far as possible; return the poll event to wait for, None when it is done.

        Raises AuthenticationError if the peer does not prove what it must, or rejects this side;
        HostError if the connection is gone.
        """
        try:
            self._sock.do_handshake()
        except ssl.SSLWantReadError:
            return select.POLLIN
        except ssl.SSLWantWriteError:
            return select.POLLOUT
        except ssl.SSLError as error:
            self.is_plain = error.reason in _NOT_TLS
            raise _refused(self.name, error) from error
        except OSError as error:
            raise HostError(f"{self.name}: the TLS handshake broke off: {error}") from error
        return None

    def channel(self, *, idle_s: float) -> "TlsChannel":
        """Return the channel, once `step` has returned None."""
        return TlsChannel(self._sock, self.name, idle_s=idle_s)

    def objection(self) -> str | None:
        """Return why the peer must be rejected although its chain was verified, None if not."""
        if self._revocations is not None:
            why = self._revocations.objection(_verified_chain(self._sock))
            if why is not None:
                return f"{self.name}: the peer is not trusted: {why}"
        names = _names(self._sock.getpeercert() or {})
        if not self._credentials.admitted or names & set(self._credentials.admitted):
            return None
        shown = ", ".join(sorted(names)) or "without a name"
        return f"{self.name}: the client {shown} is not admitted"

    def answer_plainly(self, answer: Buffers) -> None:
        """Send bytes without TLS to a peer that speaks none. Never waits, raises nothing."""
        with contextlib.suppress(OSError):
            # Socket's own method: SSLSocket has no way around its TLS.
            socket.socket.sendmsg(self._sock, answer)

    def hang_up(self) -> None:
        """Send nothing more; the peer can still hear what was sent, until `close`."""
        with contextlib.suppress(OSError):
            # The class's own: that of a TLS socket would forget what OpenSSL has to say.
            socket.socket.shutdown(self._sock, socket.SHUT_WR)

    def close(self) -> None:
        """Close the socket. Safe to call twice."""
        self._sock.close()


def _verified_chain(sock: ssl.SSLSocket) -> list[bytes]:
    """Return the certificates that were verified, in DER, the peer's own first."""
    if hasattr(sock, "get_verified_chain"):  # Python 3.13
        return list(sock.get_verified_chain())
    # What it is made of there, since 3.10.
    chain = sock._sslobj.get_verified_chain()  # type: ignore[attr-defined]
    return [certificate.public_bytes(_ENCODING_DER) for certificate in chain]


def _names(certificate: Mapping[str, Any]) -> set[str]:
    """Return the DNS names and the common name of what SSLSocket.getpeercert returns."""
    pairs = [
        *certificate.get("subjectAltName", ()),
        *(pair for group in certificate.get("subject", ()) for pair in group),
    ]
    return {value for kind, value in pairs if kind in ("DNS", "commonName")}


class TlsChannel(Channel):
    """A channel over a TLS connection whose handshake is done.

    Its bytes are moved by native code (openssl.py), or by Python's ssl module where that is not
    possible, or on their way out encrypted by the kernel.

    After a failed send nothing may leave any more. What was encrypted while the socket was full is
    kept, and leaves with whatever is sent next: a COMMIT that counts as not sent could go out with
    the ABORT that follows, or even with the closing alert. So the channel counts as in the middle
    of a record from the first try on (`is_mid_record`), and `finish` closes the socket's side
    without another word through OpenSSL.
    """

    def __init__(self, sock: ssl.SSLSocket, name: str, *, idle_s: float) -> None:
        super().__init__(sock, name, idle_s=idle_s)
        self._tls = sock
        self._lock = threading.Lock()
        self._ahead = memoryview(b"")
        self._native = native_tls(sock)
        self._kernel_encrypts = self._native is not None and is_encrypted_by_kernel(sock)
        if self._native is not None and not self._kernel_encrypts:
            self._native = self._native if self._native.begin_sending() else None

    @property
    def outgoing_path(self) -> NativePath | None:
        """As Channel.outgoing_path."""
        if self._kernel_encrypts:
            return NativePath(self._sock.fileno())
        return self.incoming_path

    @property
    def incoming_path(self) -> NativePath | None:
        """As Channel.incoming_path."""
        if self._native is None:
            return None
        return NativePath(self._sock.fileno(), self._native.address, self._lock)

    def native_error(self, code: int) -> HostError:
        """As Channel.native_error."""
        if self._native is not None and isinstance(error := self._native.error(code), TlsError):
            return _disagreement(self.name, error.reason)
        return super().native_error(code)

    def is_readable(self) -> bool:
        """Return whether bytes, or the peer's end, can be received without waiting."""
        if self._native is not None:
            with self._lock:
                return self._native.is_readable()
        if self._ahead:
            return True
        # What the socket has may be TLS's own records, with no byte of the stream.
        target = memoryview(bytearray(_AHEAD_BYTES))
        try:
            count = self._read(target)
        except Blocked:
            return False
        except (OSError, HostError):
            return True  # the next receive raises it
        self._ahead = target[:count]
        return True

    def close(self) -> None:
        """Close the socket. Safe to call twice."""
        with self._lock:
            if self._native is not None:
                self._native.close()
            super().close()

    def _send_some(self, buffers: list[memoryview]) -> int:
        # From now on some of it may leave, whatever the call returns.
        self.is_mid_record = True
        if self._kernel_encrypts:
            return self._send_plain(buffers)
        with self._lock, _Translated(self.name, select.POLLOUT):
            if self._native is not None:
                return self._native.send(buffers)
            return self._tls.send(buffers[0][:_SEND_BYTES])

    def _receive_some(self, target: memoryview) -> int:
        if self._ahead:
            count = min(len(target), len(self._ahead))
            target[:count] = self._ahead[:count]
            self._ahead = self._ahead[count:]
            return count
        return self._read(target)

    def _read(self, target: memoryview) -> int:
        with self._lock, _Translated(self.name, select.POLLIN):
            if self._native is not None:
                return self._native.receive_into(target)
            return self._tls.recv_into(target)


class _Translated:
    """Turns the exceptions of a TLS connection into the channel's.

    `event`: what native code waits for if it only says that it has to wait.
    """

    def __init__(self, name: str, event: int) -> None:
        self._name = name
        self._event = event

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, ssl.SSLWantReadError):
            raise Blocked(select.POLLIN) from None
        if isinstance(error, ssl.SSLWantWriteError):
            raise Blocked(select.POLLOUT) from None
        if isinstance(error, BlockingIOError):
            raise Blocked(self._event) from None
        if isinstance(error, ssl.SSLError):
            raise _refused(self._name, error) from error
        if isinstance(error, TlsError):
            raise _disagreement(self._name, error.reason) from error


def _refused(name: str, error: ssl.SSLError) -> HostError:
    """Return the error for a handshake that failed, or for the peer's verdict on it."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return AuthenticationError(f"{name}: the peer is not trusted: {error.verify_message}")
    return _disagreement(name, _reason(error))


def _disagreement(name: str, reason: str) -> HostError:
    """Return the error for a reason of OpenSSL's."""
    if "alert" in reason or "certificate" in reason:
        return AuthenticationError(f"{name}: the peers do not accept each other: {reason}")
    return AuthenticationError(
        f"{name}: no TLS 1.3 with the peer: {reason}; give both ends certificates (--tls-dir)"
    )


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.lower().replace("_", " ")
    return error.strerror or str(error)
