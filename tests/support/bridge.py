"""A bridge with tap devices at its ports, as hosts of VMs have it: for root, in the lab.

    with Bridge("inside", "10.9.9.1", taps=("tap0", "tap1")) as bridge:
        ...

The kernel's view of it is what operators see: the bridge's forwarding table, and the frames that
come from a port.
"""

import fcntl
import os
import shutil
import socket
import struct
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Self

_TUNSETIFF: Final = 0x4004_54CA
_TUNSETPERSIST: Final = 0x4004_54CB
_IFREQ: Final = struct.Struct("16sH22x")
_IFF_TAP_NO_PI: Final = 0x1002
# struct __fdb_entry: address, number of the port, whether it is the bridge's own, age, more of it.
_ENTRY: Final = struct.Struct("=6sBBIBBH")
_ETH_P_ALL: Final = 0x0003
_ETH_P_RARP: Final = 0x8035
_ETH_P_ARP: Final = 0x0806
_LONGEST_FRAME: Final = 1 << 16
_POLL_S: Final = 0.2


def why_not() -> str:
    """Return what this host lacks for a bridge with taps, "" if nothing."""
    if os.geteuid() != 0:
        return "missing root"
    for module, shown in (("tun", "/dev/net/tun"), ("bridge", "/sys/module/bridge")):
        if not Path(shown).exists():
            return f"missing the kernel's module {module}"
    return "" if shutil.which("ip") else "missing ip"


class Bridge:
    """A bridge that is there within a `with` block; `address` is this host's on it.

    `gateway`: where this host's default route leads; nothing has to be there.
    """

    def __init__(
        self, name: str, address: str, *, taps: Sequence[str] = (), gateway: str = ""
    ) -> None:
        self.address = address
        self.gateway = gateway
        self._name = name
        self._taps = taps

    def __enter__(self) -> Self:
        _ip("link", "add", self._name, "type", "bridge")
        _ip("address", "add", f"{self.address}/24", "dev", self._name)
        _ip("link", "set", self._name, "up")
        if self.gateway:
            _ip("route", "add", "default", "via", self.gateway)
        for tap in self._taps:
            _keep_tap(tap, is_kept=True)
            _ip("link", "set", tap, "master", self._name)
            _ip("link", "set", tap, "up")
        return self

    def __exit__(self, *_: object) -> None:
        for tap in self._taps:
            _keep_tap(tap, is_kept=False)
        _ip("link", "delete", self._name)

    def tap_of(self, mac: bytes) -> str | None:
        """Return the tap behind which the bridge has last seen an address, None if it has not."""
        table = Path(f"/sys/class/net/{self._name}/brforward").read_bytes()
        ports = {
            int(Path(f"/sys/class/net/{tap}/brport/port_no").read_text(), 0): tap
            for tap in self._taps
        }
        for address, port, _, _, port_high, _, _ in _ENTRY.iter_unpack(table):
            if address == mac:
                return ports.get(port | port_high << 8)
        return None


def outside() -> Bridge:
    """Return the network to which this host has its default route; passt needs one."""
    return Bridge("outside", "10.77.0.2", gateway="10.77.0.1")


class Announcements:
    """Listens within a `with` block how `mac` says where it is, to what comes in at an interface.

    `kinds`: "RARP", "ARP", in the order in which each came first.
    """

    def __init__(self, interface: str, mac: bytes) -> None:
        self.kinds: list[str] = []
        self._mac = mac
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
        self._socket.bind((interface, _ETH_P_ALL))
        self._socket.settimeout(_POLL_S)
        self._is_over = False
        self._thread = threading.Thread(target=self._collect)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over = True
        self._thread.join()
        self._socket.close()

    def _collect(self) -> None:
        while not self._is_over:
            try:
                frame, origin = self._socket.recvfrom(_LONGEST_FRAME)
            except TimeoutError:
                continue
            except OSError:  # the interface goes down
                return
            if origin[2] != socket.PACKET_OUTGOING and frame[6:12] == self._mac:
                self._note(frame)

    def _note(self, frame: bytes) -> None:
        protocol = int.from_bytes(frame[12:14])
        # An ARP frame whose sender and target are the same address asks nothing.
        is_gratuitous = protocol == _ETH_P_ARP and frame[28:32] == frame[38:42]
        kind = "RARP" if protocol == _ETH_P_RARP else "ARP" if is_gratuitous else None
        if kind is not None and kind not in self.kinds:
            self.kinds.append(kind)


def _keep_tap(name: str, *, is_kept: bool) -> None:
    """Make a tap device, or remove it."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, _TUNSETIFF, _IFREQ.pack(name.encode(), _IFF_TAP_NO_PI))
        fcntl.ioctl(descriptor, _TUNSETPERSIST, int(is_kept))
    finally:
        os.close(descriptor)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)
