"""The machines that a process makes: what is refused before there is one."""

from pathlib import Path

import pytest

from tagalong.errors import UsageError
from tagalong.vmm.assembly import MachineAssembly
from tagalong.vmm.options import KernelFiles, NewLinux, RunOptions


def test_machine_for_a_kernel_with_more_vcpus_than_have_a_place_is_refused() -> None:
    origin = NewLinux(KernelFiles(Path("Image")), vcpu_count=124)
    options = RunOptions(origin, machine="soft")
    assembly = MachineAssembly(options, {}, lambda _: None, lambda _: None)

    with pytest.raises(UsageError) as caught:
        assembly.linux(origin)

    assert str(caught.value) == (
        "cannot make 124 vCPUs: a machine for a kernel has 1 to 123, whose redistributors lie "
        "below the UART at 0x9000000; give fewer with --vcpus"
    )
