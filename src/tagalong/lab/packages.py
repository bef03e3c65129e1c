"""Which Debian packages the lab is made of, and how apt's answers about them are read.

No version stands here: they rotate on every mirror, and apt says what there is.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from tagalong.errors import LabSetupError

STABLE = "bookworm"
STABLE_BACKPORTS = "bookworm-backports"
NEXT = "trixie"
NEXT_BACKPORTS = "trixie-backports"

# Debian 12's own QEMU 7.2 keeps tags wrongly, so QEMU comes from backports.
QEMU_SUITE = STABLE_BACKPORTS
QEMU_PACKAGES = ("qemu-system-arm",)

# numpy's wheels need libstdc++6 and do not bring it.
USERLAND_SUITE = STABLE
USERLAND_PACKAGES = ("python3", "busybox-static", "libstdc++6")

KERNEL_PACKAGE = "linux-image-cloud-arm64"
KERNELS = ("6.1", "6.12", "7.3")
DEFAULT_KERNEL = "6.12"

# The packages behind it with the image and the modules; Debian splits them from 7.x on.
_KERNEL_PARTS = re.compile(r"linux-(image|binary|modules)-\d.*")

_DEBIAN_RELEASES = frozenset(
    ("oldoldstable", "oldstable", "stable", "testing", "unstable", "sid",
     "bullseye", "bookworm", "trixie", "forky", "duke")
)  # fmt: skip

# "Inst libc6 (2.36-9 Debian:12.11/oldstable [arm64])"
_INSTALLED = re.compile(r"Inst (?P<package>\S+) \((?P<version>\S+) .*\[(?P<architecture>\S+)\]\).*")


@dataclass(frozen=True)
class Archive:
    """One Debian package in one version."""

    package: str
    version: str
    architecture: str

    @property
    def file_name(self) -> str:
        """Return its name in apt's download folder, where a version's colon is escaped."""
        return f"{self.package}_{self.version.replace(':', '%3a')}_{self.architecture}.deb"


@dataclass(frozen=True)
class Target:
    """One index of the system's own apt configuration."""

    repository: str
    suite: str


def parse_targets(text: str) -> list[Target]:
    """Read lines "REPOSITORY SUITE", as `apt-get indextargets` was asked to write them."""
    fields = (line.split() for line in text.splitlines())
    return [Target(*pair) for pair in fields if len(pair) == 2]


def debian_mirror(targets: Iterable[Target]) -> str:
    """Return the mirror of Debian's main archive among `targets`.

    Raises LabSetupError if the system has none: it may be another distribution.
    """
    for target in targets:
        release, _, part = target.suite.partition("-")
        if release in _DEBIAN_RELEASES and part in ("", "updates", "backports"):
            return target.repository
    suites = sorted({target.suite for target in targets})
    raise LabSetupError(
        f"apt on this system has no mirror of Debian (suites: {', '.join(suites) or 'none'}); "
        "name one with --mirror, or your own --qemu, --kernel and --rootfs"
    )


def parse_simulation(text: str) -> list[Archive]:
    """Read what `apt-get --simulate install` says it would install.

    (`--print-uris` would be no help: it leaves out what has been downloaded already.)
    """
    found = (_INSTALLED.fullmatch(line.strip()) for line in text.splitlines())
    return [Archive(**match.groupdict()) for match in found if match]


def parse_madison(text: str) -> list[tuple[str, str]]:
    """Read `apt-cache madison`: pairs of version and suite, the newest first."""
    pairs = []
    for line in text.splitlines():
        fields = [field.strip() for field in line.split("|")]
        if len(fields) == 3 and "/" in fields[2]:
            suite = fields[2].split()[1].rpartition("/")[0]
            pairs.append((fields[1], suite))
    return pairs


def choose_kernel(wanted: str, offered: Iterable[tuple[str, str]]) -> tuple[str, str] | None:
    """Return version and suite of the newest kernel `wanted` ("6.12"), None if there is none."""
    return next(
        (pair for pair in offered if re.match(rf"{re.escape(wanted)}[.~+-]", pair[0])), None
    )


def kernel_parts(archives: Iterable[Archive]) -> list[str]:
    """Return the packages among `archives` that hold a kernel's image and modules."""
    return [a.package for a in archives if _KERNEL_PARTS.fullmatch(a.package)]
