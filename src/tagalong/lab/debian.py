"""Finds a kernel among the suites that Debian's mirror offers."""

from tagalong.errors import LabSetupError
from tagalong.lab import packages
from tagalong.lab.apt import Apt
from tagalong.lab.observer import Observer


def find_kernel(apt: Apt, name: str, observer: Observer) -> packages.DebianKernel:
    """Return the newest kernel of a name, as in "6.12" or "7.3-16k".

    Raises LabSetupError if it is no name, or if the mirror has none.
    """
    named = packages.kernel_name(name)
    if named is None:
        raise LabSetupError(
            f"cannot fetch Linux {name}: give a version, or one with the size of its pages: "
            f"{', '.join(packages.KERNELS)}"
        )
    package, wanted = named
    for suites in (
        (packages.STABLE, packages.STABLE_BACKPORTS),
        (packages.NEXT, packages.NEXT_BACKPORTS),
    ):
        apt.update(suites, observer)
        offered = apt.offered(package)
        if (found := packages.choose_kernel(wanted, offered)) is not None:
            return packages.DebianKernel(package, *found)
    there = ", ".join(f"{version} ({suite})" for version, suite in offered) or "none"
    raise LabSetupError(f"cannot find Linux {name} for arm64 on the mirror; it has {there}")
