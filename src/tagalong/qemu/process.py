"""A QEMU that runs: what it is, and where its guest's RAM is, by /proc.

Guest RAM that is a memfd mapped shared can be mapped by others, too: the same pages, and on KVM the
same allocation tags. Private RAM cannot. Source: proc(5), memfd_create(2).
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tagalong.errors import CoreError, HostError

_PROC: Final = Path("/proc")
_MAPPING: Final = re.compile(
    r"([0-9a-f]+)-([0-9a-f]+) (\S{4}) ([0-9a-f]+) [0-9a-f]+:[0-9a-f]+ (\d+) +(/.*)"
)
_MEMFD: Final = "/memfd:"
_ELF_CLASS: Final = 4
_ELF_32: Final = 1
_LEAST_RAM_BYTES: Final = 1 << 20
_KVM_VM: Final = "anon_inode:kvm-vm"
_KVM_VCPU: Final = "anon_inode:kvm-vcpu"
_ADVICE: Final = (
    "start it with -object memory-backend-memfd,id=ram,size=SIZE,share=on -machine "
    "memory-backend=ram, or let QEMU save the guest and use `tagalong convert`"
)


@dataclass(frozen=True)
class _MappedFile:
    start: int
    end: int
    is_shared: bool
    inode: int
    name: str


@dataclass(frozen=True)
class QemuProcess:
    """A QEMU for arm64 whose RAM can be read.

    `ram_fd`: its RAM, from offset 0 on; `ram_bytes`; `ram_address`: where QEMU has mapped it.
    `is_kvm`: KVM runs the guest, with `vcpu_count` vCPUs; else QEMU emulates it, and that is 0.
    """

    pid: int
    ram_fd: int
    ram_bytes: int
    ram_address: int
    is_kvm: bool
    vcpu_count: int


@contextmanager
def open_process(pid: int) -> Iterator[QemuProcess]:
    """Yield the QEMU with this process id. Reading its RAM changes nothing of it.

    Raises CoreError, with the way out, if it is no QEMU for arm64 or its RAM is not one shared
    memfd; HostError if there is no such process, or it is another user's.
    """
    try:
        with folder_of(pid) as folder:
            mappings = [*_mappings(folder)]
            _require_qemu(folder, mappings, pid)
            ram = _ram(mappings, pid)
            links = [*_links(folder)]
            fd = _open_memfd(folder, ram, pid)
    except (ProcessLookupError, FileNotFoundError) as error:
        raise HostError(f"there is no process {pid}, or it has just ended") from _about(pid, error)
    except PermissionError as error:
        raise HostError(
            f"process {pid} may not be looked into: it is another user's, or protected; be its "
            "user, or root"
        ) from _about(pid, error)
    try:
        vcpus = sum(link.startswith(_KVM_VCPU) for link in links)
        yield QemuProcess(pid, fd, ram.end - ram.start, ram.start, _KVM_VM in links, vcpus)
    finally:
        os.close(fd)


@contextmanager
def folder_of(pid: int) -> Iterator[Path]:
    """Yield the folder of a process: of this one, also if it ends and another gets its number."""
    fd = os.open(_PROC / str(pid), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield _PROC / "self" / "fd" / str(fd)
    finally:
        os.close(fd)


def _about(pid: int, error: OSError) -> OSError:
    """Return the error with the name of the process's folder, and not of our descriptor."""
    return OSError(error.errno, error.strerror, str(_PROC / str(pid)))


def _mappings(folder: Path) -> Iterator[_MappedFile]:
    for line in (folder / "maps").read_text(errors="replace").splitlines():
        found = _MAPPING.fullmatch(line)
        if found:
            start, end, flags, _, inode, name = found.groups()
            yield _MappedFile(int(start, 16), int(end, 16), flags[3] == "s", int(inode), name)


def _links(folder: Path) -> Iterator[str]:
    for each in (folder / "fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            yield os.readlink(each)


def _require_qemu(folder: Path, mappings: list[_MappedFile], pid: int) -> None:
    # Its program is one of its mappings, also where a loader was started that loaded it.
    programs = {Path(each.name.removesuffix(" (deleted)")).name for each in mappings}
    emulators = sorted(name for name in programs if name.startswith(("qemu-system-", "qemu-kvm")))
    if not emulators:
        raise CoreError(f"process {pid} is no QEMU: its program is {_program(folder)}")
    if not emulators[0].endswith(("-aarch64", "qemu-kvm")):
        raise CoreError(f"process {pid} is {emulators[0]}: its guest is not one of arm64")
    with (folder / "exe").open("rb") as program:
        if program.read(_ELF_CLASS + 1)[_ELF_CLASS:] == bytes([_ELF_32]):
            raise CoreError(f"process {pid} is a QEMU of 32 bits, which is not read")


def _program(folder: Path) -> str:
    try:
        return os.readlink(folder / "exe")
    except FileNotFoundError:
        return "none, as of a thread of the kernel or of a process that has ended"


def _ram(mappings: list[_MappedFile], pid: int) -> _MappedFile:
    """Return the only memfd that can be the guest's RAM."""
    memfds = [each for each in mappings if each.name.startswith(_MEMFD)
              and each.end - each.start >= _LEAST_RAM_BYTES]  # fmt: skip
    shared = [each for each in memfds if each.is_shared]
    if len(shared) == 1:
        return shared[0]
    if shared:
        names = ", ".join(f"{e.name} of {e.end - e.start:#x} bytes" for e in shared)
        raise CoreError(
            f"QEMU {pid} has mapped several memfds, and which of them is the guest's RAM is not "
            f"known: {names}; {_ADVICE}"
        )
    how = "a memfd, but mapped privately (share=off)" if memfds else "private memory"
    raise CoreError(f"the guest RAM of QEMU {pid} is {how}, which others cannot read; {_ADVICE}")


def _open_memfd(folder: Path, ram: _MappedFile, pid: int) -> int:
    for link in (folder / "fd").iterdir():
        try:
            if not os.readlink(link).startswith(_MEMFD) or link.stat().st_ino != ram.inode:
                continue
            # By its name it may be a FIFO of a process that only looks like QEMU.
            fd = os.open(link, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:  # closed meanwhile
            continue
        if os.fstat(fd).st_ino == ram.inode and os.fstat(fd).st_size == ram.end - ram.start:
            return fd
        os.close(fd)
    raise CoreError(f"QEMU {pid} has {ram.name} mapped, but no descriptor of all of it; {_ADVICE}")
