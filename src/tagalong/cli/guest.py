"""`tagalong guest`: a Linux guest to try things with, made of Debian's packages."""

import json
import shutil
from pathlib import Path

import click

from tagalong.cli.lab_setup import setup_bars
from tagalong.cli.values import FILE
from tagalong.errors import LabSetupError
from tagalong.lab import (
    DEFAULT_KERNEL,
    KERNELS,
    GuestRequest,
    LinuxGuest,
    default_folder,
    set_up_guest,
)

_EPILOG = """\b
Examples:
  tagalong guest fetch && cd linux-guest
  tagalong run --kernel Image --initrd initrd.cpio --append "console=ttyAMA0"
"""


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
@click.option(
    "--dir",
    "cache",
    type=FILE,
    envvar="TAGALONG_LAB_DIR",
    help="Where what was fetched is kept. Default: in the user's cache.",
)
@click.option(
    "--mirror",
    metavar="URI",
    envvar="TAGALONG_LAB_MIRROR",
    help="A Debian mirror. Default: the mirror of this system's apt.",
)
@click.option("--json", "as_json", is_flag=True, help="Print what was made as JSON.")
@click.argument("folder", type=FILE, default="linux-guest")
def fetch(
    *, version: str, cache: Path | None, mirror: str | None, as_json: bool, folder: Path
) -> None:
    """Fetch Debian's kernel and make a small root file system; without root.

    FOLDER, linux-guest by default, gets Image and initrd.cpio. The root file system has busybox,
    the drivers of our devices, and tagkeeper. The words behind "--" on the kernel's command line
    are what it runs; without them, a shell. The packages are fetched once.
    """
    guest = fetch_guest(version, cache, mirror)
    image, initrd = _put(guest, folder)
    if as_json:
        facts = {"kernel": str(image), "initrd": str(initrd), "release": guest.release}
        click.echo(json.dumps(facts, indent=2))
        return
    click.echo(f"kernel  {image} (Linux {guest.release})")
    click.echo(f"initrd  {initrd}")


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
