"""The KVM machine: real guests with MTE on a real arm64 host."""

from tagalong.kvm.build import RAM_GPA
from tagalong.kvm.machine import KvmMachine, why_not
from tagalong.kvm.vcpu import KvmVcpu

__all__ = ["RAM_GPA", "KvmMachine", "KvmVcpu", "why_not"]
