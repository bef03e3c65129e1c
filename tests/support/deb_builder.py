"""Debian packages for tests, built by dpkg-deb."""

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path


class DebBuilder:
    """Builds Debian packages with given files, with dpkg-deb itself."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0

    def __call__(self, files: Mapping[str, bytes]) -> Path:
        self._count += 1
        root = self._folder / f"root{self._count}"
        control = root / "DEBIAN" / "control"
        control.parent.mkdir(parents=True)
        control.write_text(
            "Package: p\nVersion: 1\nArchitecture: all\nMaintainer: m <m@example.org>\n"
            "Description: d\n"
        )
        for path, data in files.items():
            place = root / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)
        target = self._folder / f"linux-{self._count}.deb"
        subprocess.run(
            ["dpkg-deb", "--root-owner-group", "--build", str(root), str(target)],
            check=True, capture_output=True,
        )  # fmt: skip
        shutil.rmtree(root)
        return target
