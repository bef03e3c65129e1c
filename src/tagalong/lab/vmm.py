"""QEMU for arm64 and a Linux guest for it, inside the lab: a foreign VMM, as operators have it.

QEMU has its own loader and libraries, those that it is linked with and no others: most of what its
packages depend on is for displays, sound and modules that no guest here has.
"""

import stat
from collections.abc import Iterable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Final

from tagalong.binary.layout import MalformedError
from tagalong.errors import LabSetupError
from tagalong.lab.cpio import CpioWriter
from tagalong.lab.deb import ArchiveMember, files_of, members_of
from tagalong.lab.elf import needed_libraries, stripped

ARCHIVE: Final = "vmm.cpio"
BUSYBOX: Final = "busybox"

PLACE: Final = "opt/vmm"
"""The folder in the lab: `qemu` runs QEMU, `Image` and `initrd` are its guest."""

_PROGRAM: Final = "usr/bin/qemu-system-aarch64"
_LOADER: Final = "ld-linux-aarch64.so.1"
_KEEPER: Final = "tagkeeper"

_START = f"""#!/bin/sh
exec /{PLACE}/lib/{_LOADER} --library-path /{PLACE}/lib /{PLACE}/qemu-system-aarch64 "$@"
"""

# PID 1 of the guest. "keeper=mib:8,rate:100" on the kernel's command line are tagkeeper's knobs.
_GUEST_INIT = """#!/bin/busybox sh
busybox mount -t proc proc /proc
busybox mount -t sysfs sys /sys
knobs=
for word in $(busybox cat /proc/cmdline); do
	case $word in
	keeper=*) knobs=$(echo "${word#keeper=}" | busybox tr ,: ' =') ;;
	esac
done
/tagkeeper $knobs
echo "guest: tagkeeper ended with status $?"
busybox poweroff -f
"""


def write(debs: Iterable[Path], target: Path) -> None:
    """Write the archive `target` with QEMU from its packages. Raises LabSetupError."""
    program, libraries = _program_and_libraries(debs)
    with target.open("wb") as out:
        writer = CpioWriter(out)
        writer.add_file(f"{PLACE}/qemu", _START.encode(), permissions=0o755)
        writer.add_file(f"{PLACE}/{Path(_PROGRAM).name}", program, permissions=0o755)
        for name, data in sorted(libraries.items()):
            writer.add_file(f"{PLACE}/lib/{name}", data, permissions=0o755)
        writer.close()


def write_guest(kernel: Path, busybox: Path, keeper: Path, target: Path) -> None:
    """Write the archive `target` with a guest: a kernel's Image, and a root with tagkeeper."""
    with target.open("wb") as out:
        writer = CpioWriter(out)
        writer.add_file(f"{PLACE}/Image", kernel.read_bytes())
        writer.add_file(f"{PLACE}/initrd", _guest_root(busybox, keeper))
        writer.close()


def extract_busybox(debs: Iterable[Path], target: Path) -> Path:
    """Write the busybox of a Debian package to `target` and return that. Raises LabSetupError."""
    for deb in debs:
        for file in files_of(deb):
            if Path(file.path).name == "busybox" and "bin" in file.path:
                target.write_bytes(file.read())
                return target
    raise LabSetupError("cannot find busybox in its package")


def _guest_root(busybox: Path, keeper: Path) -> bytes:
    buffer = BytesIO()
    writer = CpioWriter(buffer)
    for folder in ("dev", "proc", "sys"):
        writer.add_folder(folder)
    writer.add_character_device("dev/console", 5, 1)
    writer.add_file("init", _GUEST_INIT.encode(), permissions=0o755)
    writer.add_file("bin/busybox", busybox.read_bytes(), permissions=0o755)
    writer.add_file(_KEEPER, keeper.read_bytes(), permissions=0o755)
    writer.close()
    return buffer.getvalue()


def _program_and_libraries(debs: Iterable[Path]) -> tuple[bytes, dict[str, bytes]]:
    """Return QEMU and the libraries that it is linked with, directly or not, by name."""
    members = {member.path: member for deb in debs for member in members_of(deb)}
    if _PROGRAM not in members:
        raise LabSetupError(f"cannot find /{_PROGRAM} in the packages of QEMU for arm64")
    libraries = sorted(
        filter(_is_library, members), key=lambda path: _is_link(members[path]), reverse=True
    )
    by_name = {Path(path).name: path for path in libraries}  # a file rather than a link to it
    program = stripped(members[_PROGRAM].data)
    found: dict[str, bytes] = {}
    pending = [_LOADER, *_needed(_PROGRAM, program)]
    while pending:
        name = pending.pop()
        if name in found:
            continue
        if name not in by_name:
            raise LabSetupError(f"cannot find {name}, which QEMU for arm64 is linked with")
        found[name] = stripped(_resolved(members, by_name, by_name[name]))
        pending += _needed(name, found[name])
    return program, found


def _needed(name: str, data: bytes) -> list[str]:
    try:
        return needed_libraries(data)
    except MalformedError as error:
        raise LabSetupError(f"cannot read {name} of QEMU for arm64: {error}") from error


def _is_library(path: str) -> bool:
    folder = str(Path(path).parent)
    return ".so" in path and folder.endswith(("lib/aarch64-linux-gnu", "lib"))


def _is_link(member: ArchiveMember) -> bool:
    return stat.S_ISLNK(member.mode)


def _resolved(members: Mapping[str, ArchiveMember], by_name: Mapping[str, str], path: str) -> bytes:
    """Return the data of a library that may be a link to another name in the packages."""
    for _ in range(8):
        member = members[path]
        if not _is_link(member):
            return member.data
        path = by_name[Path(member.data.decode()).name]
    raise LabSetupError(f"cannot read {path}: its links have no end")
