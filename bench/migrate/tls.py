"""Migrations over TLS 1.3, ours and QEMU's, beside our own without TLS.

Both use certificates on both sides and the same cipher, AES-256-GCM: it is what OpenSSL and GnuTLS
choose by themselves, and QEMU is told to use no other.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import trustme

from bench.migrate import ours, qemu
from bench.migrate.guest import Content
from bench.migrate.sample import Figures
from bench.migrate.series import Contestants, medians, require_room, sample
from bench.rows import Figure, Row
from tagalong.migrate import MigrationOptions, TlsCredentials
from tagalong.soft import SoftMachine

HOST = "127.0.0.1"
CHANNELS = (1, 4)
_MIB = 1 << 20


def measure(content: Content, runs: int, *, with_qemu: bool) -> dict[str, Figures]:
    """Return the medians of `runs` samples of each contestant, by name.

    Raises SystemExit if there is not enough memory, or no QEMU.
    """
    require_room(3 if with_qemu else 2, content)
    machine = ours.guest(content)
    with TemporaryDirectory(prefix="tagalong-bench-") as scratch:
        folder = Path(scratch)
        make_certificates(folder)
        contestants = _ours(machine, folder)
        if with_qemu:
            contestants |= _qemus(content, folder)
        samples = sample(contestants, runs)
    machine.close()
    return {name: medians(each) for name, each in samples.items()}


def make_certificates(folder: Path) -> None:
    """Write certificates for both roles, under the names that QEMU and tagalong use."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca-cert.pem"))
    for role in ("server", "client"):
        issued = authority.issue_cert(HOST, common_name=HOST)
        issued.cert_chain_pems[0].write_to_path(str(folder / f"{role}-cert.pem"))
        issued.private_key_pem.write_to_path(str(folder / f"{role}-key.pem"))


def _ours(machine: SoftMachine, folder: Path) -> Contestants:
    contestants: Contestants = {}
    for channels in CHANNELS:
        for name, tls in (("tagalong", None), ("tagalong, TLS", TlsCredentials(folder))):
            options = MigrationOptions(channels=channels, tls=tls)
            contestants[f"{name}, {channels}"] = partial(ours.migrate, machine, options)
    return contestants


def _qemus(content: Content, folder: Path) -> Contestants:
    settings = [qemu.Setting(multifd, folder) for multifd in (0, 2, 4)]
    return {f"QEMU, {each}": partial(qemu.migrate, content, each) for each in settings}


def ratios(figures: dict[str, Figures]) -> dict[str, float]:
    """Return the rates over TLS to QEMU's best over TLS, and to our own without it."""
    rates = {name: each["gb_per_s"] or 0.0 for name, each in figures.items()}
    best = max((rate for name, rate in rates.items() if name.startswith("QEMU")), default=None)
    found = {}
    for channels in CHANNELS:
        rate = rates[f"tagalong, TLS, {channels}"]
        if best is not None:
            found[f"over {channels}, to QEMU's best"] = rate / best
        found[f"over {channels}, to the rate without TLS"] = rate / rates[f"tagalong, {channels}"]
    return found


def rows(runs: int) -> Sequence[Row]:
    """Return the row of TLS."""
    figures = measure(Content(2048 * _MIB), runs, with_qemu=True)
    bounds = {"QEMU's best": 1.3, "without TLS": 0.5}
    judged = [
        Figure(name, ratio, at_least=next(at for end, at in bounds.items() if name.endswith(end)))
        for name, ratio in ratios(figures).items()
    ]
    rates = [Figure(name, each["gb_per_s"] or 0.0, "GB/s") for name, each in figures.items()]
    how = f"2 GiB over loopback in turn, AES-256-GCM everywhere, medians of {runs} runs"
    return [Row(6, (*judged, *rates), how)]
