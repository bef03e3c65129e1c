"""The demo of `tagalong beside`: a Linux guest of an unmodified QEMU moves with its tags.

scenario   the whole demo: hosts, migrations, what the guest says
host       one QEMU beside tagalong, and the console of its guest
"""

from tagalong.studies.beside.host import QemuGuest
from tagalong.studies.beside.scenario import (
    BesideDemoObserver,
    BesideDemoOptions,
    BesideDemoReport,
    run_beside_demo,
)

__all__ = [
    "BesideDemoObserver",
    "BesideDemoOptions",
    "BesideDemoReport",
    "QemuGuest",
    "run_beside_demo",
]
