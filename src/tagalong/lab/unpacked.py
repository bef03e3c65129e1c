"""Runs a program of the host's out of unpacked Debian packages, with their loader and libraries."""

from pathlib import Path

from tagalong.errors import LabSetupError


def unpacked_command(folder: Path, program: str, *settings: str) -> tuple[str, ...]:
    """Return the command of `program`, a path in `folder`, with its own loader and libraries.

    With those it runs on any distribution. `settings` are variables of its environment, as
    NAME=VALUE. Raises LabSetupError if a part is missing.
    """
    loaders = sorted(folder.glob("lib*/ld-linux-*.so.*"))
    path = folder / program
    if not loaders or not path.exists():
        raise LabSetupError(f"cannot find {path.name} and its loader in {folder}")
    libraries = sorted(map(str, (*folder.glob("lib/*-linux-gnu"), *folder.glob("usr/lib/*-gnu"))))
    return (
        # Libraries and modules of the host may have other versions.
        "env", "-u", "LD_LIBRARY_PATH", "-u", "LD_PRELOAD", *settings,
        str(loaders[0]), "--library-path", ":".join(libraries), str(path),
    )  # fmt: skip
