"""The Debian packages that the lab is made of, and parsers of apt's answers about them.

No version is written here: mirrors rotate them, and apt reports which ones exist.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from tagalong.errors import LabSetupError

STABLE = "bookworm"
STABLE_BACKPORTS = "bookworm-backports"
NEXT = "trixie"
NEXT_BACKPORTS = "trixie-backports"

# QEMU 7.2 of Debian 12 stores tags wrongly (qemu.py), so QEMU comes from backports.
QEMU_SUITE = STABLE_BACKPORTS
QEMU_PACKAGES = ("qemu-system-arm",)

# numpy's wheels need libstdc++6 and do not include it; passt is the network of `--net user`.
USERLAND_SUITE = STABLE
BUSYBOX_PACKAGE = "busybox-static"
USERLAND_PACKAGES = ("python3", BUSYBOX_PACKAGE, "libstdc++6", "passt")

KERNELS = ("6.1", "6.12", "7.3", "7.3-16k")
DEFAULT_KERNEL = "6.12"

# A kernel is named by its version and, if they are not of 4 KiB, the size of its pages.
_KERNEL_NAME = re.compile(r"(?P<version>\d+\.\d+)(-(?P<pages>16k))?")
_KERNEL_PACKAGES = {None: "linux-image-cloud-arm64", "16k": "linux-image-arm64-16k"}

# Its dependencies with the image and the modules; from 7.x on they are separate packages.
_KERNEL_PARTS = re.compile(r"linux-(image|binary|modules)-\d.*")

_DEBIAN_RELEASES = frozenset(
    ("oldoldstable", "oldstable", "stable", "testing", "unstable", "sid",
     "bullseye", "bookworm", "trixie", "forky", "duke")
)  # fmt: skip

# "Inst libc6 (2.36-9 Debian:12.11/oldstable [arm64])"
_INSTALLED = re.compile(r"Inst (?P<package>\S+) \((?P<version>\S+) .*\[(?P<architecture>\S+)\]\).*")


@dataclass(frozen=True)
class DebPackage:
    """One Debian package in one version."""

    package: str
    version: str
    architecture: str

    @property
    def file_name(self) -> str:
        """Return its file name in apt's download folder, which escapes the version's colon."""
        return f"{self.package}_{self.version.replace(':', '%3a')}_{self.architecture}.deb"


@dataclass(frozen=True)
class DebianKernel:
    """A kernel that a suite of Debian offers: its package, and which version of it."""

    package: str
    version: str
    suite: str

    @property
    def exact(self) -> str:
        """Return it as apt is asked for it."""
        return f"{self.package}={self.version}"


@dataclass(frozen=True)
class AptIndex:
    """One package index of the system's apt configuration."""

    repository: str
    suite: str


def parse_targets(text: str) -> list[AptIndex]:
    """Parse lines "REPOSITORY SUITE", the format requested from `apt-get indextargets`."""
    fields = (line.split() for line in text.splitlines())
    return [AptIndex(*pair) for pair in fields if len(pair) == 2]


def debian_mirror(targets: Iterable[AptIndex]) -> str:
    """Return the mirror of Debian's main archive among `targets`.

    Raises LabSetupError if there is none, as on another distribution.
    """
    for target in targets:
        release, _, part = target.suite.partition("-")
        if release in _DEBIAN_RELEASES and part in ("", "updates", "backports"):
            return target.repository
    suites = sorted({target.suite for target in targets})
    raise LabSetupError(
        "cannot find a Debian mirror in this system's apt configuration (its suites: "
        f"{', '.join(suites) or 'none'}); name one with --mirror, or give your own --qemu, "
        "--kernel and --rootfs"
    )


def parse_simulation(text: str) -> list[DebPackage]:
    """Parse the packages that `apt-get --simulate install` would install.

    `--print-uris` does not serve: it omits packages that are already downloaded.
    """
    found = (_INSTALLED.fullmatch(line.strip()) for line in text.splitlines())
    return [DebPackage(**match.groupdict()) for match in found if match]


def parse_madison(text: str) -> list[tuple[str, str]]:
    """Parse `apt-cache madison` into pairs of version and suite, newest first."""
    pairs = []
    for line in text.splitlines():
        fields = [field.strip() for field in line.split("|")]
        if len(fields) == 3 and "/" in fields[2]:
            suite = fields[2].split()[1].rpartition("/")[0]
            pairs.append((fields[1], suite))
    return pairs


def kernel_name(name: str) -> tuple[str, str] | None:
    """Return package and version of a kernel's name; None if it is no name of a kernel.

    >>> kernel_name("6.12"), kernel_name("7.3-16k")
    (('linux-image-cloud-arm64', '6.12'), ('linux-image-arm64-16k', '7.3'))
    """
    found = _KERNEL_NAME.fullmatch(name)
    return (_KERNEL_PACKAGES[found["pages"]], found["version"]) if found else None


def choose_kernel(wanted: str, offered: Iterable[tuple[str, str]]) -> tuple[str, str] | None:
    """Return version and suite of the newest kernel `wanted` ("6.12"), or None."""
    return next(
        (pair for pair in offered if re.match(rf"{re.escape(wanted)}[.~+-]", pair[0])), None
    )


def kernel_parts(archives: Iterable[DebPackage]) -> list[str]:
    """Return the names of those `archives` that contain a kernel's image or modules."""
    return [a.package for a in archives if _KERNEL_PARTS.fullmatch(a.package)]
