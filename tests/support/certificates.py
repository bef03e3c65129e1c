"""Folders of certificates as an operator lays them out, made afresh for each run."""

from pathlib import Path

import trustme


class Authority:
    """Vouches for whom a test wants; `folder` has the files for both roles."""

    def __init__(self, folder: Path, *, host: str = "127.0.0.1", client: str = "source.example"):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.ca = trustme.CA()
        self.ca.cert_pem.write_to_path(str(folder / "ca-cert.pem"))
        self.issue("server", host)
        self.issue("client", client)

    def issue(self, role: str, name: str) -> None:
        """Write certificate and key of a role."""
        leaf = self.ca.issue_cert(name, common_name=name)
        (self.folder / f"{role}-cert.pem").write_bytes(
            b"".join(blob.bytes() for blob in leaf.cert_chain_pems)
        )
        leaf.private_key_pem.write_to_path(str(self.folder / f"{role}-key.pem"))
