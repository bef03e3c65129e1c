"""/dev/kvm itself: is it there, what can it do, and a new VM from it."""

import os
import platform
from pathlib import Path
from typing import Final

from tagalong.errors import HostError
from tagalong.kvm.abi import KVM_API_VERSION, Cap, KvmIoctl
from tagalong.kvm.descriptor import Descriptor, IoctlError
from tagalong.kvm.vm_fd import KvmVm

DEVICE: Final = Path("/dev/kvm")
_ARM64: Final = "aarch64"


class KvmSystem(Descriptor):
    """An open /dev/kvm on an arm64 host.

    Raises HostError that says what is missing: another architecture, no such file, no
    permission, no KVM behind it, another version of its interface.
    """

    def __init__(self, path: Path = DEVICE, *, architecture: str | None = None) -> None:
        architecture = architecture or platform.machine()
        if architecture != _ARM64:
            raise HostError(
                f"this host is {architecture}: machine 'kvm' runs arm64 guests on arm64 hosts only"
            )
        super().__init__(_open(path))
        try:
            self._check_version(path)
        except HostError:
            self.close()
            raise

    def _check_version(self, path: Path) -> None:
        try:
            version = self.ioctl(KvmIoctl.KVM_GET_API_VERSION)
        except IoctlError as error:
            raise HostError(f"{path} is not KVM: {error}") from error
        if version != KVM_API_VERSION:
            raise HostError(f"{path} has API version {version}, expected {KVM_API_VERSION}")

    def check(self, cap: Cap) -> int:
        """Return what KVM says of a capability; 0 is no."""
        return self.ioctl(KvmIoctl.KVM_CHECK_EXTENSION, cap)

    def require(self, cap: Cap, why: str) -> None:
        """Raise HostError, saying `why`, unless KVM has a capability."""
        if not self.check(cap):
            raise HostError(f"KVM on this host has no {cap.name}: {why}")

    def create_vm(self, ipa_bits: int = 0) -> KvmVm:
        """Return a new VM with guest physical addresses of `ipa_bits`; 0: KVM's choice, 40."""
        return KvmVm(self.ioctl(KvmIoctl.KVM_CREATE_VM, ipa_bits))

    def run_bytes(self) -> int:
        """Return the size of the pages that a vCPU shares with its VMM."""
        return self.ioctl(KvmIoctl.KVM_GET_VCPU_MMAP_SIZE)


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise HostError(
            f"cannot open {path}: it does not exist; the kernel has no KVM, or did not start at EL2"
        ) from error
    except PermissionError as error:
        raise HostError(
            f"cannot open {path}: permission denied; join the group that owns it (usually kvm)"
        ) from error
    except OSError as error:
        raise HostError(f"cannot open {path}: {error.strerror}") from error
