"""What is missing is said exactly; descriptors name the ioctl that failed."""

import ctypes
import errno
import os
import termios
from pathlib import Path
from typing import cast

import pytest

from tagalong.errors import HostError
from tagalong.kvm.abi import Cap, KvmIoctl, kvm_enable_cap, kvm_one_reg, kvm_userspace_memory_region
from tagalong.kvm.descriptor import Descriptor, IoctlError, describe
from tagalong.kvm.kvm_fd import KvmSystem

ARM64 = "aarch64"


def test_system_on_another_architecture_says_which() -> None:
    with pytest.raises(HostError, match=r"^this host is riscv64: machine 'kvm' runs arm64"):
        KvmSystem(architecture="riscv64")


def test_system_without_device_says_so(tmp_path: Path) -> None:
    with pytest.raises(
        HostError, match=r"cannot open .*/kvm: it does not exist; the kernel has no KVM"
    ):
        KvmSystem(tmp_path / "kvm", architecture=ARM64)


def test_system_without_permission_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("tagalong.kvm.kvm_fd.os.open", refuse)

    with pytest.raises(HostError, match=r"cannot open /dev/kvm: permission denied; join the group"):
        KvmSystem(architecture=ARM64)


def test_system_that_is_no_kvm_says_so() -> None:
    with pytest.raises(HostError, match=r"/dev/null is not KVM: KVM_GET_API_VERSION\(0x0\)"):
        KvmSystem(Path("/dev/null"), architecture=ARM64)


def test_ioctl_that_fails_names_itself_its_arguments_and_the_errno() -> None:
    with Descriptor(os.open("/dev/null", os.O_RDWR)) as device:
        argument = kvm_userspace_memory_region(slot=3, guest_phys_addr=0x4000_0000)

        with pytest.raises(IoctlError) as caught:
            device.ioctl(KvmIoctl.KVM_SET_USER_MEMORY_REGION, argument)

    assert caught.value.errno == errno.ENOTTY
    assert str(caught.value) == (
        "KVM_SET_USER_MEMORY_REGION(slot=0x3, flags=0x0, guest_phys_addr=0x40000000, "
        "memory_size=0x0, userspace_addr=0x0) failed: ENOTTY (Inappropriate ioctl for device)"
    )


def test_descriptor_after_close_refuses() -> None:
    device = Descriptor(os.open("/dev/null", os.O_RDWR))

    device.close()
    device.close()

    with pytest.raises(HostError, match="the Descriptor descriptor of KVM is closed"):
        device.ioctl(KvmIoctl.KVM_RUN)


def test_describe_arrays_without_the_zeros_behind_them() -> None:
    request = kvm_enable_cap(cap=Cap.KVM_CAP_ARM_MTE)
    assert describe(request) == "cap=0xcd, flags=0x0"

    request.args[1] = 7

    assert describe(request) == "cap=0xcd, flags=0x0, args=[0x0, 0x7]"
    assert describe(kvm_one_reg(id=0x10)) == "id=0x10, addr=0x0"
    assert describe(255) == "0xff"


def test_ioctl_each_makes_them_in_order_until_one_fails() -> None:
    # FIONREAD, with the number of an ioctl of KVM's, writes how much a pipe holds.
    reader, writer = os.pipe()
    os.write(writer, b"abc")
    counts = (ctypes.c_int * 3)()
    with Descriptor(reader) as pipe:
        results = pipe.ioctl_each(cast("KvmIoctl", termios.FIONREAD), counts)

        assert (list(results), list(counts)) == ([0, 0, 0], [3, 3, 3])
        with pytest.raises(IoctlError, match=r"KVM_GET_ONE_REG\(id=0x5.*ENOTTY") as caught:
            pipe.ioctl_each(KvmIoctl.KVM_GET_ONE_REG, (kvm_one_reg * 2)(kvm_one_reg(id=5)))
    os.close(writer)
    assert caught.value.errno == errno.ENOTTY
