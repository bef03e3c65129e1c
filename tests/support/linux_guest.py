"""The Linux guest of the tests: fetched before them on the host, part of the lab inside it."""

import os
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

import pytest

from tagalong._native import LIBRARY_FOLDER
from tagalong.errors import LabError
from tagalong.lab import GuestRequest, SilentObserver, default_folder, set_up_guest
from tagalong.lab.cpio import CpioWriter
from tagalong.lab.guest import LAB_PLACE

ROOT = Path(__file__).parents[2]


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


def linux_guest_with(
    folder: Path, scripts: Mapping[str, str], programs: Iterable[str] = ()
) -> tuple[Path, Path]:
    """Return kernel and initial RAM disk, with `scripts` of the shell in the guest's /bin by name.

    `programs` are names in tests/programs, and go there, too. The RAM disk is written into
    `folder`: the kernel unpacks one archive behind the other.
    """
    kernel, initrd = linux_guest()
    longer = folder / "initrd-with-scripts.cpio"
    with longer.open("wb") as out:
        out.write(initrd.read_bytes())
        writer = CpioWriter(out)
        for name, text in scripts.items():
            data = f"#!/bin/busybox sh\n{text}".encode()
            writer.add_file(f"bin/{name}", data, permissions=0o755)
        for name in programs:
            writer.add_file(f"bin/{name}", _built(folder, name).read_bytes(), permissions=0o755)
        writer.close()
    return kernel, longer


def _built(folder: Path, name: str) -> Path:
    if "TAGALONG_INSIDE_LAB" in os.environ:
        return LIBRARY_FOLDER / f"{name}.elf"
    import toolchain  # noqa: PLC0415 (the lab has no compiler)

    (program,) = (p for p in toolchain.build_programs(ROOT, folder) if p.stem == name)
    return program
