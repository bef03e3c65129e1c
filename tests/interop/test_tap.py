"""A tap device of the kernel, in a network namespace that a user made: no root is needed for it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
APART = ("unshare", "--user", "--map-root-user", "--net")


def why_not() -> str:
    """Return what this host lacks for such a namespace, "" if nothing."""
    for program in ("unshare", "ip"):
        if shutil.which(program) is None:
            return f"missing {program}"
    if not Path("/dev/net/tun").exists():
        return "missing /dev/net/tun"
    tried = subprocess.run([*APART, "true"], capture_output=True, text=True, check=False)
    return f"missing user namespaces: {tried.stderr.strip()}" if tried.returncode else ""


def test_tap_device_of_a_namespace_carries_frames_both_ways() -> None:
    if reason := why_not():
        pytest.skip(reason)

    ran = subprocess.run(
        [*APART, sys.executable, "-m", "tests.support.tap_exchange"],
        cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip

    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "down=False announced=True answer=10.9.9.1\n"
