"""Certificates that their authorities took back: ca-crl.pem.

OpenSSL can be told to check revocation, but then it rejects every certificate whose issuer has no
list, so the list of one authority shuts out the valid certificates of all others; and it cannot
be told to check where there is a list. So the check is made here, after the handshake, for each
certificate of the verified chain: if its issuer has lists, its serial number must be on none of
them, and the newest must not have expired. A peer is rejected before any byte of it is parsed.

The signatures of the lists are not verified: the file is this host's own, and trusted as much as
the file of authorities beside it, whose certificates are not verified either.

DER is ITU-T X.690, the structures are RFC 5280, 4.1 and 5.1.
"""

import base64
import binascii
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from tagalong.errors import HostError

_PEM: Final = re.compile(rb"-----BEGIN X509 CRL-----(.*?)-----END X509 CRL-----", re.DOTALL)
_INTEGER, _SEQUENCE, _UTC_TIME, _GENERALIZED_TIME = 0x02, 0x30, 0x17, 0x18
_VERSION: Final = 0xA0
_STRINGS: Final = {0x0C: "utf-8", 0x13: "ascii", 0x14: "latin-1", 0x16: "ascii", 0x1E: "utf-16-be"}

Name = tuple[tuple[bytes, str | bytes], ...]
"""A distinguished name in a form in which equal names are equal: type and value of each part."""


@dataclass(frozen=True)
class _Value:
    """One DER value: its tag and its content."""

    tag: int
    content: bytes

    def parts(self) -> "list[_Value]":
        """Return the values that the content consists of."""
        return list(_values(self.content))


def _values(content: bytes) -> Iterator[_Value]:
    """Yield DER values. Raises ValueError if the bytes are not DER."""
    at = 0
    while at < len(content):
        tag, length, at = content[at], content[at + 1 : at + 2], at + 2
        if not length or tag & 0x1F == 0x1F:
            raise ValueError("not DER")
        size = length[0]
        if size & 0x80:
            count = size & 0x7F
            size = int.from_bytes(content[at : at + count], "big")
            at += count
        if at + size > len(content):
            raise ValueError("a DER value is cut short")
        yield _Value(tag, content[at : at + size])
        at += size


def _first(content: bytes) -> _Value:
    return next(_values(content))


def _name(value: _Value) -> Name:
    parts = [attribute.parts() for relative in value.parts() for attribute in relative.parts()]
    return tuple((kind.content, _text(text)) for kind, text in parts)


def _text(value: _Value) -> str | bytes:
    """Return a part's value; strings differ in neither case nor spaces nor encoding."""
    encoding = _STRINGS.get(value.tag)
    if encoding is None:
        return value.content
    return " ".join(value.content.decode(encoding, "replace").casefold().split())


def _time(value: _Value) -> datetime:
    digits = value.content.decode("ascii")
    if value.tag == _UTC_TIME:
        digits = ("19" if digits >= "50" else "20") + digits
    return datetime.strptime(digits, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)


@dataclass(frozen=True)
class _RevocationList:
    """One authority's list."""

    issuer: Name
    next_update: datetime | None
    serials: frozenset[bytes]


def _parse(der: bytes) -> _RevocationList:
    fields = _first(_first(der).content).parts()
    if fields[0].tag == _INTEGER:
        fields = fields[1:]  # the version
    issuer, times, rest = fields[1], [], fields[2:]
    while rest and rest[0].tag in (_UTC_TIME, _GENERALIZED_TIME):
        times.append(_time(rest.pop(0)))
    entries = rest[0].parts() if rest and rest[0].tag == _SEQUENCE else []
    return _RevocationList(
        issuer=_name(issuer),
        next_update=times[1] if len(times) > 1 else None,
        serials=frozenset(entry.parts()[0].content for entry in entries),
    )


@dataclass(frozen=True)
class Revocations:
    """All lists of a file."""

    path: Path
    lists: Sequence[_RevocationList]

    def objection(self, chain: Sequence[bytes]) -> str | None:
        """Return why a chain of certificates (DER, the peer's own first) must be rejected.

        None if no certificate was revoked, as far as there are lists.
        """
        try:
            return self._objection(chain)
        except (ValueError, IndexError, StopIteration):
            return "its certificate is not DER as RFC 5280 has it"

    def _objection(self, chain: Sequence[bytes]) -> str | None:
        for certificate in chain:
            fields = _first(_first(certificate).content).parts()
            fields = fields[1:] if fields[0].tag == _VERSION else fields
            serial, issuer = fields[0].content, _name(fields[2])
            lists = [each for each in self.lists if each.issuer == issuer]
            if any(serial in each.serials for each in lists):
                number = int.from_bytes(serial, "big")
                return f"the certificate with serial number {number:#x} was revoked ({self.path})"
            if lists and all(_is_expired(each) for each in lists):
                return f"the revocation list of its authority has expired ({self.path})"
        return None


def _is_expired(revocations: _RevocationList) -> bool:
    return revocations.next_update is not None and revocations.next_update < datetime.now(UTC)


def load_revocations(path: Path) -> Revocations | None:
    """Return the lists in a PEM file, None if there is no such file.

    Raises HostError if it cannot be read, or has no list, or one that is damaged.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise HostError(f"{path}: cannot be read for TLS: {error.strerror}") from error
    try:
        lists = [_parse(base64.b64decode(found[1])) for found in _PEM.finditer(content)]
    except (ValueError, IndexError, StopIteration, binascii.Error, RuntimeError) as error:
        raise HostError(f"{path}: cannot be used for TLS: a revocation list is damaged") from error
    if not lists:
        raise HostError(f"{path}: cannot be used for TLS: it has no revocation list in PEM")
    return Revocations(path, lists)
