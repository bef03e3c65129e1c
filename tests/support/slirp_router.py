"""A real QEMU without a machine: a router to this host, at a Unix socket with QEMU's own framing.

Its address is 10.0.2.2, which leads to this host's 127.0.0.1; it gives 10.0.2.15 by DHCP.
"""

import subprocess
from pathlib import Path
from typing import Self

from bench.migrate.qemu import find_qemu
from tests.support.vm_processes import until

ADDRESS = "10.0.2.2"


class SlirpRouter:
    """Listens at `path` for one card at a time, within a `with` block."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._command = [
            *find_qemu(), "-machine", "none", "-display", "none", "-nodefaults",
            "-no-user-config", "-monitor", "none", "-serial", "none",
            "-netdev", "user,id=host", "-netdev", "hubport,id=one,hubid=0,netdev=host",
            "-netdev", f"stream,id=card,server=on,addr.type=unix,addr.path={path}",
            "-netdev", "hubport,id=two,hubid=0,netdev=card",
        ]  # fmt: skip

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL)
        try:
            until(lambda: self.path.exists() or self._process.poll() is not None, str(self.path))
            assert self._process.poll() is None, "QEMU has ended"
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
