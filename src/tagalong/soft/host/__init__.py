"""The VMM's own CPU on the embedded machine: a user process on a second interpreter CPU."""

from tagalong.soft.host.soft_host import SoftHost

__all__ = ["SoftHost"]
