"""The OpenSSL of Python's ssl module, for native code (native/tls.c).

Python moves one record of 16 KiB per call, of which a GiB has 65,536, and all its threads take
turns. Native code moves many records per call, but it needs OpenSSL's functions and the
address of the connection (`SSL *`).

The functions are looked up in the libraries that the module `_ssl` itself is linked with, so they
are those of the OpenSSL that made the connection. The address is in the object behind an SSLSocket,
whose layout is not public (`PySSLSocket` in CPython's Modules/_ssl.c). But the words before and
behind it are known here: the address of the socket's weak reference, and that of its context. If
both are not exactly there, or a function is missing, there is no native way, and the records pass
through Python: slower, with the same bytes on the wire.
"""

from __future__ import annotations

import _ssl
import ctypes
import errno
import os
import ssl
import sys
import weakref
from functools import cache
from typing import TYPE_CHECKING, Final

from tagalong._lazy import module_when_used
from tagalong._native import OpenSsl, TlsStream, library

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    import numpy as np
else:
    np = module_when_used("numpy")

READ_AHEAD_BYTES: Final = 64 << 10
"""What OpenSSL reads at once: four records.

Before each record it moves all that it has read ahead, to align it. With 256 KiB it would move
eight times what is received, which took 0.1 s for a GiB.
"""

OP_ENABLE_KTLS: Final = 1 << 3
"""SSL_OP_ENABLE_KTLS of OpenSSL 3.0; in the ssl module from Python 3.12 on."""

# RFC 8446, 5.5: a key of AES-GCM is safe for 2^24.5 records of full size, 388 GiB. OpenSSL has no
# limit of its own.
_RECORDS_PER_KEY: Final = 1 << 24

_OUTGOING_BYTES: Final = 17 * (16 << 10)
_MAX_PIECES: Final = 64

# include/uapi/linux/tls.h, include/linux/socket.h
_SOL_TLS: Final = 282
_TLS_TX: Final = 1
_INFO_BYTES: Final = 4


class TlsError(OSError):
    """OpenSSL has given up a connection; `reason` is what it says."""

    def __init__(self, reason: str) -> None:
        super().__init__(errno.EPROTO, reason)
        self.reason = reason


@cache
def _functions() -> ctypes.CDLL | None:
    """Return the libraries behind Python's ssl module, None if they cannot be used."""
    path = getattr(_ssl, "__file__", None)
    is_known = sys.implementation.name == "cpython" and ssl.OPENSSL_VERSION_INFO >= (3, 0)
    if path is None or not is_known or not ssl.OPENSSL_VERSION.startswith("OpenSSL "):
        return None
    try:
        loaded = ctypes.CDLL(path)
        loaded.OpenSSL_version_num.restype = ctypes.c_ulong
        if loaded.OpenSSL_version_num() != ssl.OPENSSL_VERSION_NUMBER:
            return None
        for name, _ in OpenSsl._fields_:
            getattr(loaded, _symbol(name))
        loaded.SSL_set_read_ahead.argtypes = (ctypes.c_void_p, ctypes.c_int)
        loaded.SSL_set_default_read_buffer_len.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
        loaded.SSL_get_fd.argtypes = (ctypes.c_void_p,)
        loaded.ERR_reason_error_string.argtypes = (ctypes.c_ulong,)
        loaded.ERR_reason_error_string.restype = ctypes.c_char_p
    except (OSError, AttributeError):
        return None
    return loaded


def _symbol(name: str) -> str:
    """Return OpenSSL's name of a field of OpenSsl: ssl_read is SSL_read, bio_new is BIO_new."""
    prefix, _, rest = name.partition("_")
    return f"{prefix.upper()}_{rest}"


@cache
def _table() -> OpenSsl | None:
    functions = _functions()
    if functions is None:
        return None
    addresses = (
        ctypes.cast(getattr(functions, _symbol(name)), ctypes.c_void_p)
        for name, _ in OpenSsl._fields_
    )
    return OpenSsl(*addresses)


def address_of(sock: ssl.SSLSocket) -> int | None:
    """Return the address of a connection's `SSL`, None if it is not certain."""
    functions = _functions()
    inner = sock._sslobj  # type: ignore[attr-defined]
    head = object.__basicsize__
    if functions is None or type(inner).__basicsize__ < head + 3 * ctypes.sizeof(ctypes.c_void_p):
        return None
    reference, address, context = (ctypes.c_void_p * 3).from_address(id(inner) + head)
    # An object has one weak reference without a callback, however often it is asked for.
    if reference != id(weakref.ref(sock)) or context != id(inner.context) or address is None:
        return None
    return int(address) if functions.SSL_get_fd(address) == sock.fileno() else None


def read_ahead(sock: ssl.SSLSocket) -> None:
    """Let OpenSSL take what the socket has, not each record by itself; before the handshake.

    Bytes may then be in OpenSSL that poll does not know of: a receiver must try before it waits.
    """
    functions, address = _functions(), address_of(sock)
    if functions is not None and address is not None:
        functions.SSL_set_default_read_buffer_len(address, READ_AHEAD_BYTES)
        functions.SSL_set_read_ahead(address, 1)


def is_encrypted_by_kernel(sock: socket.socket) -> bool:
    """Return whether the kernel encrypts what is sent on the socket (Documentation/networking/tls).

    OpenSSL has arranged that in the handshake, if it and the kernel can.
    """
    try:
        return len(sock.getsockopt(_SOL_TLS, _TLS_TX, _INFO_BYTES)) == _INFO_BYTES
    except OSError:
        return False


class NativeTls:
    """Moves the bytes of a TLS connection whose handshake is done, by native code.

    Nothing else may send or receive on the connection from then on. One thread at a time.
    """

    def __init__(self, sock: ssl.SSLSocket, address: int, table: OpenSsl) -> None:
        self._inner = sock._sslobj  # type: ignore[attr-defined] # it frees the SSL
        self._outgoing = np.empty(_OUTGOING_BYTES, np.uint8)
        self.stream = TlsStream(
            openssl=ctypes.pointer(table),
            ssl=address,
            outgoing=self._outgoing.ctypes.data,
            outgoing_bytes=self._outgoing.size,
            records_per_key=_RECORDS_PER_KEY,
            fd=sock.fileno(),
        )

    @property
    def address(self) -> int:
        """Return where its `struct ta_tls` is."""
        return ctypes.addressof(self.stream)

    def begin_sending(self) -> bool:
        """Let what is encrypted leave by `send`; return whether there was memory for that."""
        return bool(library().ta_tls_begin(ctypes.byref(self.stream)) == 0)

    def send(self, buffers: Sequence[memoryview]) -> int:
        """Send from the buffers; return how many bytes have left.

        Raises BlockingIOError if none can, TlsError, or OSError. After the first call, nothing
        but the bytes behind those that have left may be sent.
        """
        views = [np.frombuffer(buffer, np.uint8) for buffer in buffers[:_MAX_PIECES]]
        pieces = np.array([[view.ctypes.data, view.size] for view in views], np.uint64)
        return self._checked(
            library().ta_tls_send(ctypes.byref(self.stream), pieces.ctypes.data, len(views))
        )

    def receive_into(self, target: memoryview) -> int:
        """Receive at least a byte; return how many, 0 at the peer's end. Raises as `send`."""
        view = np.frombuffer(target, np.uint8)
        return self._checked(
            library().ta_tls_receive(ctypes.byref(self.stream), view.ctypes.data, view.size)
        )

    def is_readable(self) -> bool:
        """Return whether `receive_into` would not raise BlockingIOError."""
        return bool(library().ta_tls_is_readable(ctypes.byref(self.stream)))

    def error(self, code: int) -> OSError:
        """Return the exception for an errno of native code."""
        if code == errno.EAGAIN:
            return BlockingIOError(code, os.strerror(code))
        functions = _functions()
        if code != errno.EPROTO or functions is None:
            return OSError(code, os.strerror(code))
        text = functions.ERR_reason_error_string(self.stream.reason)
        return TlsError(text.decode("ascii", "replace") if text else "protocol error")

    def close(self) -> None:
        """Move nothing any more: the descriptor may soon be another file's."""
        self.stream.fd = -1

    def _checked(self, result: int) -> int:
        if result < 0:
            raise self.error(-result)
        return result


def native_tls(sock: ssl.SSLSocket) -> NativeTls | None:
    """Return what moves the bytes of a connection by native code, None if that is not possible."""
    table, address = _table(), address_of(sock)
    return None if table is None or address is None else NativeTls(sock, address, table)
