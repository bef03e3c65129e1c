"""The VMM's own CPU on the embedded machine: a user process on a second interpreter CPU."""

from typing import TYPE_CHECKING

from tagalong._lazy import names_of

if TYPE_CHECKING:
    from tagalong.soft.host.soft_host import SoftHost
else:
    __getattr__, __dir__ = names_of(
        __name__,
        {
            "tagalong.soft.host.soft_host": ("SoftHost",),
        },
    )

__all__ = ["SoftHost"]
