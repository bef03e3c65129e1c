"""What a guest calls its vCPUs: KVM's numbers."""

import pytest

from tagalong.machine.affinity import vcpu_affinity, vcpu_of_affinity


@pytest.mark.parametrize(
    ("index", "affinity"),
    [(0, 0), (15, 15), (16, 0x100), (17, 0x101), (255, 0xF0F), (4095, 0xFF0F), (4096, 0x1_0000)],
)
def test_affinity_of_a_vcpu_has_sixteen_in_aff0(index: int, affinity: int) -> None:
    assert vcpu_affinity(index) == affinity
    assert vcpu_of_affinity(affinity, index + 1) == index
    assert vcpu_of_affinity(affinity, index) is None


@pytest.mark.parametrize("affinity", [16, 0xFF, 0x10F0, 1 << 32, 0x8000_0000])
def test_affinity_that_no_vcpu_has_names_none(affinity: int) -> None:
    assert vcpu_of_affinity(affinity, 4096) is None
