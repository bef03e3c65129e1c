"""The embedded machine: an A64 + MTE interpreter that runs on any host."""

from tagalong.soft.machine import RAM_GPA, SoftMachine
from tagalong.soft.vcpu import SoftVcpu

__all__ = ["RAM_GPA", "SoftMachine", "SoftVcpu"]
