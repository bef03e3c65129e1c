"""The KVM machine: real guests with MTE on a real arm64 host."""

from typing import TYPE_CHECKING

from tagalong._lazy import names_of

if TYPE_CHECKING:
    from tagalong.kvm.build import RAM_GPA
    from tagalong.kvm.machine import KvmMachine, why_not
    from tagalong.kvm.vcpu import KvmVcpu
else:
    __getattr__, __dir__ = names_of(
        __name__,
        {
            "tagalong.kvm.build": ("RAM_GPA",),
            "tagalong.kvm.machine": ("KvmMachine", "why_not"),
            "tagalong.kvm.vcpu": ("KvmVcpu",),
        },
    )

__all__ = ["RAM_GPA", "KvmMachine", "KvmVcpu", "why_not"]
