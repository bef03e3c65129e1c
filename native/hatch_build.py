"""Build hook: compiles the native library and the guest programs into the package.

Runs for wheels and for editable installs alike, so that `pip install -e .` gives a
working tree. What is compiled and how is in toolchain.py beside this file.
"""

import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

sys.path.insert(0, str(Path(__file__).parent))

import toolchain


class NativeBuildHook(BuildHookInterface[Any]):
    """Fill src/tagalong/_lib before hatchling collects the package's files."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build for this host and mark the wheel as one for this platform."""
        del version
        root = Path(self.root)
        toolchain.build_package(root)
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{toolchain.wheel_platform()}"
