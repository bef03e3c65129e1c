"""The emulator: which one, whether it can be trusted with tags, and its command line."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tagalong.errors import LabSetupError, SelfCheckError
from tagalong.lab.tools import output_of

OLDEST_MAJOR = 8

# A real boot is faithful without these: no random layout, which TCG cannot translate ahead,
# and no self-tests of cryptography.
_KERNEL_ARGUMENTS = "console=ttyAMA0 panic=-1 nokaslr cryptomgr.notests"

_VERSION = re.compile(r"QEMU emulator version ((\d+)\.\d+[.\d]*)")


@dataclass(frozen=True)
class Qemu:
    """A qemu-system-aarch64: how to start it, its version, and what tells it from others."""

    command: tuple[str, ...]
    version: str
    identity: str


@dataclass(frozen=True)
class MachineOptions:
    """The emulated host's size, and how long it may run."""

    ram_bytes: int = 2 << 30
    cpu_count: int = 2
    timeout_s: float = 600


@dataclass(frozen=True)
class Wiring:
    """What a machine is connected to: files, and the host's ends of its ports."""

    kernel: Path
    initrd: str
    console: Path
    ports: Mapping[str, int]
    terminal: int | None = None


def unpacked_command(folder: Path) -> tuple[str, ...]:
    """Return how to start the QEMU in `folder`, with the loader and libraries beside it.

    So it runs on a host of any other distribution as well. Raises LabSetupError.
    """
    loaders = sorted(folder.glob("lib*/ld-linux-*.so.*"))
    program = folder / "usr" / "bin" / "qemu-system-aarch64"
    if not loaders or not program.exists():
        raise LabSetupError(f"there is no QEMU with its loader in {folder}")
    libraries = sorted(map(str, (*folder.glob("lib/*-linux-gnu"), *folder.glob("usr/lib/*-gnu"))))
    return (
        # The host's own libraries and modules, of other versions, are none of its business.
        "env", "-u", "LD_LIBRARY_PATH", "-u", "LD_PRELOAD", f"QEMU_MODULE_DIR={folder}",
        str(loaders[0]), "--library-path", ":".join(libraries),
        str(program), "-L", str(folder / "usr" / "share" / "qemu"),
    )  # fmt: skip


def ask_version(command: Sequence[str]) -> str:
    """Return the version of the QEMU that `command` starts. Raises LabSetupError."""
    return parse_version(output_of([*command, "--version"], "ask QEMU for its version"))


def check_version(qemu: Qemu) -> None:
    """Raise SelfCheckError if versions like this are known to keep tags wrongly."""
    major = int(qemu.version.partition(".")[0])
    if major < OLDEST_MAJOR:
        raise SelfCheckError(
            f"QEMU {qemu.version} cannot be believed: before 8.0, system mode keeps one pair of "
            "tags for a whole page of 0x1000 bytes, not a tag for each granule of 0x10 bytes; "
            f"take QEMU {OLDEST_MAJOR}.0 or newer"
        )


def command_line(qemu: Qemu, options: MachineOptions, wiring: Wiring) -> list[str]:
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
    """Return the version that `--version` printed. Raises LabSetupError."""
    found = _VERSION.match(text)
    if found is None:
        raise LabSetupError(f"this is no QEMU system emulator; it says {text[:80]!r}")
    return found[1]


def _escaped(path: Path) -> str:
    """Write a path as a value in QEMU's comma-separated options."""
    return str(path).replace(",", ",,")
