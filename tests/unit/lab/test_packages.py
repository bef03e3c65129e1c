"""apt's answers, as apt wrote them, and what the lab reads in them."""

import pytest

from tagalong.errors import LabSetupError
from tagalong.lab.packages import (
    KERNELS,
    AptIndex,
    DebPackage,
    choose_kernel,
    debian_mirror,
    kernel_name,
    kernel_parts,
    parse_madison,
    parse_simulation,
    parse_targets,
)

SIMULATION = """\
NOTE: This is only a simulation!
      apt-get needs root privileges for real execution.
Reading package lists...
The following additional packages will be installed:
  libc6 libgcc-s1
Inst gcc-12-base (12.2.0-14+deb12u1 Debian:12.15/oldstable [arm64]) []
Inst libc6 (2.36-9+deb12u14 Debian:12.15/oldstable [arm64]) []
Inst qemu-system-data (1:10.0.2+ds-2+deb13u1~bpo12+1 Debian Backports:bookworm-backports [all])
Conf libc6 (2.36-9+deb12u14 Debian:12.15/oldstable [arm64])
"""

MADISON = """\
linux-image-cloud-arm64 | 7.3.4-1~bpo13+1 | http://mirror.example/archive trixie-backports/main arm64 Packages
linux-image-cloud-arm64 | 6.12.95-1~bpo12+1 | http://mirror.example/archive bookworm-backports/main arm64 Packages
linux-image-cloud-arm64 |  6.1.176-1 | http://mirror.example/archive bookworm/main arm64 Packages
"""  # noqa: E501 (as apt writes it)


def test_parse_simulation_reads_what_would_be_installed() -> None:
    assert parse_simulation(SIMULATION) == [
        DebPackage("gcc-12-base", "12.2.0-14+deb12u1", "arm64"),
        DebPackage("libc6", "2.36-9+deb12u14", "arm64"),
        DebPackage("qemu-system-data", "1:10.0.2+ds-2+deb13u1~bpo12+1", "all"),
    ]


def test_archive_file_name_is_apts_with_the_epochs_colon_escaped() -> None:
    archive = DebPackage("qemu-system-data", "1:10.0.2+ds-2~bpo12+1", "all")

    assert archive.file_name == "qemu-system-data_1%3a10.0.2+ds-2~bpo12+1_all.deb"


def test_parse_madison_gives_versions_and_suites() -> None:
    assert parse_madison(MADISON) == [
        ("7.3.4-1~bpo13+1", "trixie-backports"),
        ("6.12.95-1~bpo12+1", "bookworm-backports"),
        ("6.1.176-1", "bookworm"),
    ]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("6.1", ("6.1.176-1", "bookworm")),
        ("6.12", ("6.12.95-1~bpo12+1", "bookworm-backports")),
        ("7.3", ("7.3.4-1~bpo13+1", "trixie-backports")),
        ("7.4", None),
        ("6", ("6.12.95-1~bpo12+1", "bookworm-backports")),
    ],
)
def test_choose_kernel_takes_the_newest_of_a_version(
    wanted: str, found: tuple[str, str] | None
) -> None:
    assert choose_kernel(wanted, parse_madison(MADISON)) == found


@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("6.12", ("linux-image-cloud-arm64", "6.12")),
        ("7.3-16k", ("linux-image-arm64-16k", "7.3")),
        ("7.3-64k", None),
        ("7", None),
        ("16k", None),
        ("./Image", None),
    ],
)
def test_kernel_name_is_a_version_and_maybe_the_size_of_pages(
    name: str, package: tuple[str, str] | None
) -> None:
    assert kernel_name(name) == package


def test_every_kernel_of_the_lab_has_a_name_that_is_understood() -> None:
    assert all(kernel_name(name) for name in KERNELS)


def test_kernel_parts_are_image_and_modules_only() -> None:
    names = [
        "linux-base", "linux-binary-7.3.4+deb13-cloud-arm64", "linux-image-cloud-arm64",
        "linux-image-7.3.4+deb13-cloud-arm64", "linux-modules-7.3.4+deb13-cloud-arm64",
        "linux-modules-cloud-arm64", "udev",
    ]  # fmt: skip

    assert kernel_parts(DebPackage(name, "1", "arm64") for name in names) == [
        "linux-binary-7.3.4+deb13-cloud-arm64",
        "linux-image-7.3.4+deb13-cloud-arm64",
        "linux-modules-7.3.4+deb13-cloud-arm64",
    ]


def test_parse_targets_leaves_out_what_is_no_pair() -> None:
    assert parse_targets("http://mirror.example/archive/ bookworm\n\nodd\n") == [
        AptIndex("http://mirror.example/archive/", "bookworm")
    ]


@pytest.mark.parametrize("suite", ["bookworm", "stable", "sid", "trixie-updates", "testing"])
def test_debian_mirror_is_the_first_with_debians_main_archive(suite: str) -> None:
    targets = [
        AptIndex("http://other.example/archive/", "nodistro"),
        AptIndex("http://security.example/archive/", "bookworm-security"),
        AptIndex("http://one.example/archive/", suite),
        AptIndex("http://two.example/archive/", "bookworm"),
    ]

    assert debian_mirror(targets) == "http://one.example/archive/"


def test_debian_mirror_on_another_distribution_says_what_to_do() -> None:
    with pytest.raises(LabSetupError) as caught:
        debian_mirror(
            [
                AptIndex("http://mirror.example/archive/", "noble"),
                AptIndex("http://mirror.example/archive/", "noble-updates"),
            ]
        )

    assert str(caught.value) == (
        "cannot find a Debian mirror in this system's apt configuration (its suites: noble, "
        "noble-updates); name one with --mirror, or give your own --qemu, --kernel and --rootfs"
    )
