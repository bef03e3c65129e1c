"""The demo of `tagalong beside`: a Linux guest of an unmodified QEMU moves with its tags.

scenario   the whole demo: hosts, migrations, what the guest says
host       one QEMU beside tagalong, and the console of its guest
"""

from typing import TYPE_CHECKING

from tagalong._lazy import names_of

if TYPE_CHECKING:
    from tagalong.studies.beside.host import QemuGuest
    from tagalong.studies.beside.scenario import (
        BesideDemoObserver,
        BesideDemoOptions,
        BesideDemoReport,
        run_beside_demo,
    )
else:
    __getattr__, __dir__ = names_of(
        __name__,
        {
            "tagalong.studies.beside.host": ("QemuGuest",),
            "tagalong.studies.beside.scenario": (
                "BesideDemoObserver",
                "BesideDemoOptions",
                "BesideDemoReport",
                "run_beside_demo",
            ),
        },
    )

__all__ = [
    "BesideDemoObserver",
    "BesideDemoOptions",
    "BesideDemoReport",
    "QemuGuest",
    "run_beside_demo",
]
