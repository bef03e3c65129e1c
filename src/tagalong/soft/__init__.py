"""The embedded machine: an A64 + MTE interpreter that runs on any host."""

from typing import TYPE_CHECKING

from tagalong._lazy import names_of

if TYPE_CHECKING:
    from tagalong.soft.machine import RAM_GPA, SoftMachine
    from tagalong.soft.vcpu import SoftVcpu
else:
    __getattr__, __dir__ = names_of(
        __name__,
        {
            "tagalong.soft.machine": ("RAM_GPA", "SoftMachine"),
            "tagalong.soft.vcpu": ("SoftVcpu",),
        },
    )

__all__ = ["RAM_GPA", "SoftMachine", "SoftVcpu"]
