"""Names what begins like something else than a stream: the wrong file, the wrong protocol."""

from typing import Final

_KNOWN: Final = (
    (
        b"\x7fELF",
        "this is an ELF file: `tagalong info FILE` shows what is in a core, and `tagalong restore "
        "FILE` continues a snapshot",
    ),
    (
        b"\x28\xb5\x2f\xfd",
        "this is Zstandard data: `tagalong info FILE` and `tagalong restore FILE` read packed "
        "cores, and exec:'zstd -dc FILE' unpacks a packed stream",
    ),
    (b"\x1f\x8b", "this is gzip data: exec:'gzip -dc FILE' unpacks a packed stream"),
    (b"QEVM", "this is a migration stream of QEMU, which only QEMU reads"),
    (
        b"\x15\x03",
        "the peer speaks TLS and this end does not: give both ends certificates (--tls-dir)",
    ),
    (
        b"\x16\x03",
        "the peer speaks TLS and this end does not: give both ends certificates (--tls-dir)",
    ),
    (b"HTTP/", "the peer speaks HTTP"),
    (b"SSH-", "the peer speaks SSH"),
)


def describe_foreign(start: bytes) -> str | None:
    """Return what bytes begin that do not begin a stream; None if that is not known."""
    return next((said for magic, said in _KNOWN if start.startswith(magic)), None)
