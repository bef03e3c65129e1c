"""A congestion control for all contestants alike, in a network namespace of the benchmark's own.

The control is an attribute of the namespace's route to itself (ip-route(8), `congctl`), so nothing
of the host changes and none of the contestants has to know. A namespace takes no privilege where
the host lets users have namespaces of their own.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bench.migrate.sample import Figures

CONTROLS: Final = ("cubic", "bbr")

_SET_UP: Final = """\
set -e
ip link set lo up
ip route replace local 127.0.0.1 dev lo table local congctl "$1"
shift
exec "$@"
"""

_AVAILABLE: Final = Path("/proc/sys/net/ipv4/tcp_available_congestion_control")


def run_with(control: str, arguments: Sequence[str]) -> str:
    """Run `python -m bench.migrate` with `arguments` under `control`; return what it prints.

    Raises SystemExit if the kernel does not have the control, or the benchmark fails.
    """
    if control not in _AVAILABLE.read_text().split():
        raise SystemExit(f"the kernel has no congestion control {control}: modprobe tcp_{control}")
    command = ["unshare", "-rn", "sh", "-c", _SET_UP, "sh", control]
    command += [sys.executable, "-m", "bench.migrate", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"bench.migrate failed in a network namespace with {control}")
    return done.stdout


def figures_with(control: str, arguments: Sequence[str]) -> dict[str, dict[str, Figures]]:
    """Return what the benchmark measures under `control`: by title, then by contestant.

    Raises as `run_with`.
    """
    results = json.loads(run_with(control, [*arguments, "--json"]))
    return {title: result["figures"] for title, result in results.items()}
