"""`tagalong guest`: a Linux guest to try things with, made of Debian's packages."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from tagalong.cli.lab_setup import setup_bars
from tagalong.cli.units import size
from tagalong.cli.values import FILE, SIZE
from tagalong.errors import LabSetupError
from tagalong.lab import (
    DEFAULT_KERNEL,
    KERNELS,
    ROOTFS_BYTES,
    ROOTFS_PACKAGES,
    GuestRequest,
    LinuxGuest,
    RootfsRequest,
    default_folder,
    make_rootfs,
    set_up_guest,
)

_EPILOG = """\b
Examples:
  tagalong guest fetch && cd linux-guest
  tagalong run --kernel Image --initrd initrd.cpio --append "console=ttyAMA0"
"""

_ROOTFS_EPILOG = """\b
Examples:
  tagalong guest rootfs root.img
  tagalong guest rootfs root.img --size 2G --package python3 --package gdb
"""

_F = TypeVar("_F", bound=Callable[..., Any])


def _common(function: _F) -> _F:
    """Add the options of both commands."""
    options = (
        click.option(
            "--dir",
            "cache",
            type=FILE,
            envvar="TAGALONG_LAB_DIR",
            help="Where what was fetched is kept. Default: in the user's cache.",
        ),
        click.option(
            "--mirror",
            metavar="URI",
            envvar="TAGALONG_LAB_MIRROR",
            help="A Debian mirror. Default: the mirror of this system's apt.",
        ),
        click.option("--json", "as_json", is_flag=True, help="Print what was made as JSON."),
    )
    for option in reversed(options):
        function = option(function)
    return function


@click.group(epilog=_EPILOG)
def command() -> None:
    """Get a Linux guest to try things with."""


@command.command(epilog=_EPILOG)
@click.option(
    "--kernel",
    "version",
    metavar="VERSION",
    default=DEFAULT_KERNEL,
    show_default=True,
    help=f"Linux {', '.join(KERNELS)} from Debian.",
)
@_common
@click.argument("folder", type=FILE, default="linux-guest")
def fetch(
    *, version: str, cache: Path | None, mirror: str | None, as_json: bool, folder: Path
) -> None:
    """Fetch Debian's kernel and make a small root file system; without root.

    FOLDER, linux-guest by default, gets Image and initrd.cpio. The root file system has busybox,
    the drivers of our devices, and programs that verify their tags. The words behind "--" on the
    kernel's command line are what it runs; without them, a shell. The packages are fetched once.
    """
    guest = fetch_guest(version, cache, mirror)
    image, initrd = _put(guest, folder)
    if as_json:
        facts = {"kernel": str(image), "initrd": str(initrd), "release": guest.release}
        click.echo(json.dumps(facts, indent=2))
        return
    click.echo(f"kernel  {image} (Linux {guest.release})")
    click.echo(f"initrd  {initrd}")


@command.command(epilog=_ROOTFS_EPILOG)
@click.option(
    "--size",
    "size_bytes",
    type=SIZE,
    metavar="SIZE",
    default=ROOTFS_BYTES,
    show_default=size(ROOTFS_BYTES),
    help="Of the disk; what is not used takes no space in the file.",
)
@click.option(
    "--package",
    "extra",
    multiple=True,
    metavar="NAME",
    help="A Debian package to add, with what it depends on; may be given again.",
)
@_common
@click.argument("image", type=FILE)
def rootfs(
    *,
    size_bytes: int,
    extra: tuple[str, ...],
    cache: Path | None,
    mirror: str | None,
    as_json: bool,
    image: Path,
) -> None:
    """Make a disk with a root file system of Debian's packages; without root.

    IMAGE, which is replaced if it exists, gets an ext4 file system with glibc, a shell, and the
    usual tools. The kernel and the initial RAM disk of "guest fetch" start from it with
    root=/dev/vda on the kernel's command line. The packages are fetched once.
    """
    request = RootfsRequest(cache or default_folder(), image, size_bytes, extra, mirror)
    with setup_bars() as observer:
        made = make_rootfs(request, observer)
    if as_json:
        facts = {
            "image": str(made.image),
            "size": made.size_bytes,
            "used": made.disk_bytes,
            "packages": list(made.packages),
        }
        click.echo(json.dumps(facts, indent=2))
        return
    click.echo(
        f"{made.image}: {size(made.size_bytes)} with {size(made.disk_bytes)} in use, "
        f"{len(made.packages)} Debian packages, {len({*ROOTFS_PACKAGES, *extra})} of them asked for"
    )


def fetch_guest(
    version: str = DEFAULT_KERNEL, cache: Path | None = None, mirror: str | None = None
) -> LinuxGuest:
    """Return the guest in the cache; show what is done for it. Raises LabSetupError."""
    with setup_bars() as observer:
        return set_up_guest(GuestRequest(cache or default_folder(), version, mirror), observer)


def _put(guest: LinuxGuest, folder: Path) -> tuple[Path, Path]:
    targets = folder / guest.kernel.name, folder / guest.initrd.name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for source, target in zip((guest.kernel, guest.initrd), targets, strict=True):
            shutil.copyfile(source, target)
    except OSError as error:
        raise LabSetupError(
            f"cannot write the guest to {folder}: {error.strerror}; name another folder"
        ) from error
    return targets
