"""Finds a Chromium and its driver for tests, or fetches them.

    python -m tests.support.fetch_chromium

`make test` and `make web` run this. The search order is: the environment variables
TAGALONG_CHROMIUM and TAGALONG_CHROMEDRIVER, both of them; chromium and chromedriver on PATH; the
ones fetched before. If one is missing, Debian's packages (about 130 MB) are downloaded with the
lab's private apt and without root, with what they need, the C library included, so that they run
on any distribution; their cache is beside the lab's (~/.cache/tagalong/chromium). It is the
Chromium that has no window: the same pages, script engine and accessibility tree, and no GTK.

Without them the tests are skipped and say so; this command says why, and exits with 0.
"""

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from tagalong.errors import LabError
from tagalong.lab.apt import Apt, host_architecture, system_mirror
from tagalong.lab.cache import Cache, Record, default_folder
from tagalong.lab.deb import unpack
from tagalong.lab.observer import SilentObserver
from tagalong.lab.packages import STABLE

_PACKAGES = ("chromium-headless-shell", "fonts-dejavu-core")
_DRIVER_PACKAGE = "chromium-driver"
# What tools of a desktop would bring: drivers of graphics cards and a compiler for them.
_UNUSED = frozenset(
    {"libgl1-mesa-dri", "libicu72", "libllvm15", "libxml2", "libz3-4", "x11-utils", "xdg-utils"}
)
_FORM = 3

_FONTS = """<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig>
  <dir prefix="relative">usr/share/fonts</dir>
  <cachedir prefix="xdg">fontconfig</cachedir>
</fontconfig>
"""

# A process of Chromium starts others as what it is itself, which is the loader here: so the loader
# is beside it, where its files are, and this script is what it starts. Tests run as root in
# containers, where its sandbox cannot; the pages are our own. Its driver expects a page that is
# open, and a Chromium without windows opens none by itself.
_BROWSER = """#!/bin/sh
here=$(dirname "$(readlink -f "$0")")
FONTCONFIG_FILE=$here/fonts.conf exec "$here/usr/lib/chromium/ld.so" --library-path {0} \
"$here/usr/lib/chromium/chromium-headless-shell" --no-sandbox --no-zygote \
--browser-subprocess-path="$0" "$@" about:blank
"""
_DRIVER = """#!/bin/sh
here=$(dirname "$(readlink -f "$0")")
exec "$here/usr/lib/chromium/ld.so" --library-path {0} "$here/usr/bin/chromedriver" "$@"
"""


class ChromiumMissingError(Exception):
    """There is no usable Chromium; the message says what was tried."""


@dataclass(frozen=True)
class Browser:
    """The programs that start a Chromium and its driver."""

    chromium: Path
    driver: Path


def find() -> Browser:
    """Return what there is. Raises ChromiumMissingError; downloads nothing."""
    named = [os.environ.get(f"TAGALONG_{name}") for name in ("CHROMIUM", "CHROMEDRIVER")]
    on_path = [shutil.which(name) for name in ("chromium", "chromedriver")]
    for chromium, driver in (named, on_path):
        if chromium and driver:
            return Browser(Path(chromium), Path(driver))
    piece = _cache().find("chromium", _made_from())
    if piece is None:
        raise ChromiumMissingError("no chromium and chromedriver on PATH, none fetched (make test)")
    return Browser(piece.folder / "browser", piece.folder / "driver")


def fetch() -> Browser:
    """Download them. Raises ChromiumMissingError."""
    try:
        _cache().piece("chromium", _made_from(), _make)
    except LabError as error:
        raise ChromiumMissingError(str(error)) from error
    return find()


def _cache() -> Cache:
    return Cache(default_folder().parent / "chromium")


def _made_from() -> Record:
    return {"form": _FORM, "packages": [*_PACKAGES, _DRIVER_PACKAGE], "suite": STABLE}


def _make(folder: Path) -> Record:
    observer = SilentObserver()
    apt = Apt(_cache().folder("apt"), architecture=host_architecture(), mirror=system_mirror())
    apt.update((STABLE,), observer)
    needed = {each.package for each in apt.closure(_PACKAGES, STABLE)} - _UNUSED
    for deb in (
        *apt.download_only(sorted(needed), STABLE, observer),
        *apt.download_only((_DRIVER_PACKAGE,), STABLE, observer),
    ):
        unpack(deb, folder)
    apt.clean()
    loader = sorted(folder.glob("lib*/**/ld-linux-*.so.*"))[0]
    shutil.copyfile(loader, folder / "usr/lib/chromium/ld.so")
    (folder / "usr/lib/chromium/ld.so").chmod(0o755)
    libraries = ":".join(f'"$here"/{name}' for name in _library_folders(folder))
    (folder / "fonts.conf").write_text(_FONTS)
    for name, script in (("browser", _BROWSER), ("driver", _DRIVER)):
        (folder / name).write_text(script.format(libraries))
        (folder / name).chmod(0o755)
    return {}


def _library_folders(folder: Path) -> list[str]:
    """Return the folders with libraries, those of single packages (PulseAudio's) too."""
    found = {"usr/lib/chromium"}
    for library in folder.glob("**/*-linux-gnu/**/*.so*"):
        inside = library.parent.relative_to(folder)
        if len(inside.parts) <= len(("usr", "lib", "triplet", "package")):
            found.add(str(inside))
    return sorted(found)


def main() -> None:
    """Find or fetch it, and say on stderr what the tests will use."""
    try:
        say(f"chromium: {find().chromium}")
        return
    except ChromiumMissingError as error:
        say(f"chromium: {error}")
    say("Fetching Chromium (once, 130 MB) ...")
    try:
        say(f"chromium: {fetch().chromium}")
    except ChromiumMissingError as error:
        say(str(error))
        say("Tests that need it will be skipped. Name your own with TAGALONG_CHROMIUM=PATH.")


def say(message: str) -> None:
    sys.stderr.write(f"{message}\n")


if __name__ == "__main__":
    main()
