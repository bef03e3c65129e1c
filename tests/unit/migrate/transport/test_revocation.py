"""Revoked certificates are rejected; lists of other authorities shut no one out."""

import base64
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from cryptography import x509

from tagalong.errors import HostError, MigrationError, with_causes
from tagalong.migrate import (
    EndOrder,
    MigrationOptions,
    TcpAddress,
    TlsCredentials,
    listen,
    migrate_to,
    receive_from,
)
from tagalong.migrate.transport.revocation import load_revocations
from tests.support.certificates import Authority, certificate, revocation_list, trust
from tests.support.fake_machine import FakeMachine
from tests.support.migration import PATIENT

ANY = TcpAddress("127.0.0.1", 0)


class Sides:
    """A folder for each side: certificates of two authorities, both trusted by both."""

    def __init__(self, folder: Path) -> None:
        self.first, self.second = Authority(folder / "first"), Authority(folder / "second")
        self.source, self.destination = self.second.folder, self.first.folder
        for side in (self.source, self.destination):
            trust(side, self.first.ca, self.second.ca)

    def revoke(self, side: Path, *lists: bytes) -> None:
        (side / "ca-crl.pem").write_bytes(b"".join(lists))


@pytest.fixture
def sides(tmp_path: Path) -> Sides:
    return Sides(tmp_path)


def attempt(sides: Sides) -> str:
    """Migrate from one side to the other; return why that fails, "" if it does not."""
    order, source, arrived = EndOrder(), FakeMachine(), []
    source.resume()
    with listen(ANY, tls=TlsCredentials(sides.destination)) as listener:

        def receive() -> None:
            with suppress(MigrationError):
                arrived.append(receive_from(listener, FakeMachine, timeouts=PATIENT, cancel=order))

        thread = threading.Thread(target=receive)
        thread.start()
        options = MigrationOptions(tls=TlsCredentials(sides.source), timeouts=PATIENT)
        try:
            migrate_to(str(listener.address), source, options)
        except MigrationError as error:
            return with_causes(error)
        finally:
            order.set()
            thread.join(60)
            for machine in (source, *(each.machine for each in arrived)):
                machine.close()
    return ""


def test_list_of_one_authority_shuts_out_no_certificate_of_another(sides: Sides) -> None:
    some = certificate(sides.first.folder, "client")

    sides.revoke(sides.destination, revocation_list(sides.first.ca, some))
    sides.revoke(sides.source, revocation_list(sides.second.ca))

    assert attempt(sides) == ""


def test_certificate_under_an_intermediate_needs_no_list_of_it(sides: Sides) -> None:
    intermediate = sides.second.ca.create_child_ca()
    sides.second.issue("client", "source.example", intermediate)

    sides.revoke(sides.destination, revocation_list(sides.second.ca))

    assert attempt(sides) == ""


def test_source_whose_certificate_was_revoked_is_rejected(sides: Sides) -> None:
    revoked = certificate(sides.source, "client")

    sides.revoke(
        sides.destination,
        revocation_list(sides.first.ca),
        revocation_list(sides.second.ca, revoked),
    )

    why = attempt(sides)
    assert f"with serial number {revoked.serial_number:#x} was revoked" in why
    assert "the peer ended the migration (HOST)" in why


def test_destination_whose_certificate_was_revoked_is_rejected(sides: Sides) -> None:
    revoked = certificate(sides.destination, "server")

    sides.revoke(sides.source, revocation_list(sides.first.ca, revoked))

    assert f"serial number {revoked.serial_number:#x} was revoked" in attempt(sides)


def test_certificate_under_a_revoked_intermediate_is_rejected(sides: Sides) -> None:
    intermediate = sides.second.ca.create_child_ca()
    sides.second.issue("client", "source.example", intermediate)
    revoked = x509.load_pem_x509_certificate(intermediate.cert_pem.bytes())

    sides.revoke(sides.destination, revocation_list(sides.second.ca, revoked))

    assert f"serial number {revoked.serial_number:#x} was revoked" in attempt(sides)


def test_list_that_has_expired_rejects_its_authority_only(sides: Sides) -> None:
    sides.revoke(sides.destination, revocation_list(sides.first.ca, days=-1))
    assert attempt(sides) == ""

    sides.revoke(sides.destination, revocation_list(sides.second.ca, days=-1))
    assert "the revocation list of its authority has expired" in attempt(sides)


def test_damaged_list_is_an_error_that_names_the_file(sides: Sides) -> None:
    sound = revocation_list(sides.first.ca)
    cut = b"\n".join([*sound.splitlines()[:3], b"-----END X509 CRL-----"])
    for content, why in (
        (b"", "it has no revocation list in PEM"),
        (b"-----BEGIN X509 CRL-----\n!\n-----END X509 CRL-----", "a revocation list is damaged"),
        (cut, "a revocation list is damaged"),
    ):
        sides.revoke(sides.destination, content)

        with pytest.raises(HostError, match=rf"ca-crl.pem: cannot be used for TLS: {why}"):
            listen(ANY, tls=TlsCredentials(sides.destination))


def test_every_truncation_of_a_list_is_damaged_or_no_shorter_list(sides: Sides) -> None:
    revoked = certificate(sides.source, "client")
    der = base64.b64decode(b"".join(revocation_list(sides.second.ca, revoked).splitlines()[1:-1]))
    path = sides.destination / "ca-crl.pem"
    for size in range(len(der)):
        body = base64.b64encode(der[:size])
        path.write_bytes(b"-----BEGIN X509 CRL-----\n" + body + b"\n-----END X509 CRL-----")

        with pytest.raises(HostError, match="a revocation list is damaged"):
            load_revocations(path)
