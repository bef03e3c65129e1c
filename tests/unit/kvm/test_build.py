"""What RAM a VM can have, whatever the size of this host's pages."""

import pytest

from tagalong.errors import UsageError
from tagalong.kvm.build import check_regions
from tagalong.machine import RegionDescription
from tagalong.memory import Gpa

GPA = Gpa(0x4000_0000)


@pytest.mark.parametrize(
    ("gpa", "size_bytes", "host"),
    [(GPA, 0x1000, 0x4000), (GPA + 0x1000, 0x4000, 0x4000), (GPA, 0x4000, 0x10000)],
)
def test_ram_that_is_not_of_whole_pages_of_the_host_is_refused(
    gpa: int, size_bytes: int, host: int
) -> None:
    with pytest.raises(UsageError) as caught:
        check_regions([RegionDescription(Gpa(gpa), size_bytes)], host)

    assert str(caught.value) == (
        f"RAM of {size_bytes:#x} bytes at gpa {gpa:#x}: KVM on this host maps whole pages of "
        f"{host:#x} bytes"
    )


@pytest.mark.parametrize("host", [0x1000, 0x4000, 0x10000])
def test_ram_of_whole_pages_of_the_host_is_accepted(host: int) -> None:
    check_regions(
        [RegionDescription(GPA, host), RegionDescription(Gpa(GPA + host), 3 * host)], host
    )


def test_machine_without_ram_is_refused() -> None:
    with pytest.raises(UsageError, match=r"^a machine needs at least one RAM region$"):
        check_regions([])
