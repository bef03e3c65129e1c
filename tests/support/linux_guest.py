"""The Linux guest of the tests: fetched before them on the host, part of the lab inside it."""

import os
from functools import cache
from pathlib import Path

import pytest

from tagalong.errors import LabError
from tagalong.lab import GuestRequest, SilentObserver, default_folder, set_up_guest
from tagalong.lab.guest import LAB_PLACE


@cache
def linux_guest() -> tuple[Path, Path]:
    """Return kernel and initial RAM disk; skip the test if they cannot be had."""
    if "TAGALONG_INSIDE_LAB" in os.environ:
        folder = Path("/") / LAB_PLACE
        return folder / "Image", folder / "initrd.cpio"
    try:
        folder = Path(os.environ.get("TAGALONG_LAB_DIR", default_folder()))
        made = set_up_guest(GuestRequest(folder), SilentObserver())
    except LabError as error:
        pytest.skip(f"missing the Linux guest (tagalong guest fetch): {error}")
    return made.kernel, made.initrd
