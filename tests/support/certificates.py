"""Folders of certificates as an operator lays them out, made afresh for each run."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


class Authority:
    """Issues certificates for a test; `folder` has the files for both roles."""

    def __init__(self, folder: Path, *, host: str = "127.0.0.1", client: str = "source.example"):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.ca = trustme.CA()
        self.ca.cert_pem.write_to_path(str(folder / "ca-cert.pem"))
        self.issue("server", host)
        self.issue("client", client)

    def issue(self, role: str, name: str, issuer: trustme.CA | None = None) -> None:
        """Write certificate and key of a role."""
        leaf = (issuer or self.ca).issue_cert(name, common_name=name)
        (self.folder / f"{role}-cert.pem").write_bytes(
            b"".join(blob.bytes() for blob in leaf.cert_chain_pems)
        )
        leaf.private_key_pem.write_to_path(str(self.folder / f"{role}-key.pem"))


def trust(folder: Path, *authorities: trustme.CA) -> None:
    """Let a folder trust these authorities and no other."""
    pems = b"".join(each.cert_pem.bytes() for each in authorities)
    (folder / "ca-cert.pem").write_bytes(pems)


def certificate(folder: Path, role: str) -> x509.Certificate:
    """Return the certificate of a role."""
    return x509.load_pem_x509_certificate((folder / f"{role}-cert.pem").read_bytes())


def revocation_list(authority: trustme.CA, *revoked: x509.Certificate, days: float = 1) -> bytes:
    """Return an authority's list of revoked certificates, PEM, valid for so many days."""
    now = datetime.now(UTC)
    issuer = x509.load_pem_x509_certificate(authority.cert_pem.bytes())
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.subject)
        .last_update(now - timedelta(days=2))
        .next_update(now + timedelta(days=days))
    )
    for each in revoked:
        builder = builder.add_revoked_certificate(
            x509.RevokedCertificateBuilder()
            .serial_number(each.serial_number)
            .revocation_date(now - timedelta(days=2))
            .build()
        )
    key = serialization.load_pem_private_key(authority.private_key_pem.bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
