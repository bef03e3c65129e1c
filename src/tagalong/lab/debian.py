"""Finds a kernel among the suites that Debian's mirror offers."""

from tagalong.errors import LabSetupError
from tagalong.lab import packages
from tagalong.lab.apt import Apt
from tagalong.lab.observer import Observer


def find_kernel(apt: Apt, wanted: str, observer: Observer) -> tuple[str, str]:
    """Return version and suite of the newest kernel `wanted`, as in "6.12".

    Raises LabSetupError if the mirror has none.
    """
    for suites in (
        (packages.STABLE, packages.STABLE_BACKPORTS),
        (packages.NEXT, packages.NEXT_BACKPORTS),
    ):
        apt.update(suites, observer)
        offered = apt.offered(packages.KERNEL_PACKAGE)
        found = packages.choose_kernel(wanted, offered)
        if found is not None:
            return found
    there = ", ".join(f"{version} ({suite})" for version, suite in offered) or "none"
    raise LabSetupError(f"cannot find Linux {wanted} for arm64 on the mirror; it has {there}")
