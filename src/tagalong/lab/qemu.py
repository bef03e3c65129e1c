"""The emulator: how to start it, which versions store tags correctly, its command line."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tagalong.errors import LabSetupError, SelfCheckError
from tagalong.lab.tools import output_of
from tagalong.lab.unpacked import unpacked_command

OLDEST_MAJOR = 8

# For speed alone: a fixed kernel layout, and no self-tests of the kernel's cryptography.
_KERNEL_ARGUMENTS = "console=ttyAMA0 panic=-1 nokaslr cryptomgr.notests"

_VERSION = re.compile(r"QEMU emulator version ((\d+)\.\d+[.\d]*)")


@dataclass(frozen=True)
class Qemu:
    """A qemu-system-aarch64: its command, its version, and a digest that identifies it."""

    command: tuple[str, ...]
    version: str
    identity: str


@dataclass(frozen=True)
class EmulatorOptions:
    """The size of the emulated host, and the time after which its run is ended."""

    ram_bytes: int = 2 << 30
    cpu_count: int = 2
    timeout_s: float = 600


@dataclass(frozen=True)
class Wiring:
    """The files and descriptors that a machine is connected to."""

    kernel: Path
    initrd: str
    console: Path
    ports: Mapping[str, int]
    terminal: int | None = None


def fetched_command(folder: Path) -> tuple[str, ...]:
    """Return the command of the QEMU whose packages are unpacked in `folder`.

    Raises LabSetupError if a part is missing.
    """
    modules = f"QEMU_MODULE_DIR={folder}"
    command = unpacked_command(folder, "usr/bin/qemu-system-aarch64", modules)
    return (*command, "-L", str(folder / "usr" / "share" / "qemu"))


def ask_version(command: Sequence[str]) -> str:
    """Return the version of the QEMU that `command` starts. Raises LabSetupError."""
    return parse_version(output_of([*command, "--version"], "read QEMU's version"))


def check_version(qemu: Qemu) -> None:
    """Raise SelfCheckError if this version is known to store tags wrongly."""
    major = int(qemu.version.partition(".")[0])
    if major < OLDEST_MAJOR:
        raise SelfCheckError(
            f"cannot use QEMU {qemu.version}: before 8.0, system mode stores one pair of tags for "
            "a whole page of 0x1000 bytes, not a tag for each granule of 0x10 bytes; give QEMU "
            f"{OLDEST_MAJOR}.0 or newer"
        )


def command_line(qemu: Qemu, options: EmulatorOptions, wiring: Wiring) -> list[str]:
    """Return the command that boots the emulated host, at EL2 and with MTE."""
    command = [
        *qemu.command,
        "-machine", "virt,virtualization=on,mte=on,gic-version=3",
        "-cpu", "max,pauth-impdef=on",
        "-accel", "tcg,thread=multi",
        "-smp", str(options.cpu_count),
        "-m", f"{options.ram_bytes >> 10}k",
        "-nodefaults", "-no-user-config", "-display", "none", "-monitor", "none", "-no-reboot",
        "-chardev", f"file,id=console,path={_escaped(wiring.console)}",
        "-serial", "chardev:console",
        "-kernel", str(wiring.kernel),
        "-initrd", wiring.initrd,
        "-append", _KERNEL_ARGUMENTS,
        "-device", "virtio-serial-pci",
    ]  # fmt: skip
    for name, descriptor in wiring.ports.items():
        command += ["-chardev", f"socket,id={name},fd={descriptor}"]
        command += ["-device", f"virtserialport,chardev={name},name={name}"]
    if wiring.terminal is not None:
        command += ["-chardev", f"socket,id=terminal,fd={wiring.terminal}"]
        command += ["-device", "virtconsole,chardev=terminal"]
    return command


def parse_version(text: str) -> str:
    """Return the version in the output of `--version`. Raises LabSetupError."""
    found = _VERSION.match(text)
    if found is None:
        raise LabSetupError(
            f"cannot read QEMU's version: the program printed {text[:80]!r}; "
            "give a qemu-system-aarch64"
        )
    return found[1]


def _escaped(path: Path) -> str:
    """Return a path as a value in QEMU's comma-separated options."""
    return str(path).replace(",", ",,")
