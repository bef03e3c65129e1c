"""Runs `tagalong lab` as a user does, with the lab that the environment asks for."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def arguments(*rest: str) -> list[str]:
    return [sys.executable, "-m", "tagalong", "lab", *rest]


def lab(*rest: str, stdin: bytes = b"", seconds: float = 120) -> subprocess.CompletedProcess[bytes]:
    """Run `tagalong lab REST...` to its end."""
    return subprocess.run(
        arguments(*rest), input=stdin, capture_output=True, timeout=seconds, check=False, cwd=ROOT
    )
