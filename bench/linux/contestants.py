"""The VMMs: the same machine for the same guest, each by its own options."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

RAM_MIB = 256
WORDS = "console=ttyAMA0 quiet cryptomgr.notests -- measure"


@dataclass(frozen=True)
class Files:
    """What a VMM gets; `net` is the socket of a peer, `console` the file for the output."""

    kernel: Path
    initrd: Path
    disk: Path
    net: Path
    console: Path


class Vmm(Protocol):
    """Something that runs the guest."""

    def command(self, files: Files) -> Sequence[str]:
        """Return the command; its guest powers off when it is done."""
        ...


class TagalongVmm:
    """Ours."""

    def command(self, files: Files) -> Sequence[str]:
        """As Vmm.command; the console is standard output."""
        return [
            sys.executable, "-m", "tagalong", "run", "--machine", "kvm", "--ram", f"{RAM_MIB}M",
            "--kernel", str(files.kernel), "--initrd", str(files.initrd), "--append", WORDS,
            "--disk", str(files.disk), "--net", f"unix:{files.net}",
        ]  # fmt: skip


class QemuVmm:
    """QEMU, with the same devices and MTE."""

    def __init__(self, program: str) -> None:
        self._program = program

    def command(self, files: Files) -> Sequence[str]:
        """As Vmm.command; the console is standard output."""
        return [
            self._program, "-machine", "virt,gic-version=3,mte=on", "-cpu", "host",
            "-accel", "kvm", "-m", str(RAM_MIB), "-display", "none", "-nodefaults",
            "-no-user-config", "-no-reboot", "-serial", "stdio",
            "-global", "virtio-mmio.force-legacy=false",
            "-kernel", str(files.kernel), "-initrd", str(files.initrd), "-append", WORDS,
            "-drive", f"if=none,id=disk,file={files.disk},format=raw",
            "-device", "virtio-blk-device,drive=disk",
            "-netdev", f"stream,id=net,addr.type=unix,addr.path={files.net}",
            "-device", "virtio-net-device,netdev=net",
        ]  # fmt: skip
