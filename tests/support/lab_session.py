"""One pytest run inside the lab, seen from outside: its reports, as they come."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from tagalong.errors import LostMachineError, TagalongError
from tagalong.lab import (
    DEFAULT_KERNEL,
    EmulatorOptions,
    LabRequest,
    SilentObserver,
    Streams,
    default_folder,
    run,
    set_up,
)
from tests.support.lab_collect import MARK

ROOT = Path(__file__).parents[2]
KERNELS = os.environ.get("TAGALONG_LAB_KERNELS", DEFAULT_KERNEL).split()
TIMEOUT_S = 1500.0
_KEPT_BYTES = 1 << 16

Report = dict[str, object]


def why_not() -> str | None:
    """Return what is missing for a lab on this host."""
    if "TAGALONG_LAB_QEMU" in os.environ or shutil.which("apt-get"):
        return None
    return "apt-get is not on the PATH, and TAGALONG_LAB_QEMU names no emulator"


def request(kernel: str) -> LabRequest:
    """Return the lab that the environment asks for, as `tagalong lab` understands it."""
    folder, rootfs = (os.environ.get(f"TAGALONG_LAB_{name}") for name in ("DIR", "ROOTFS"))
    return LabRequest(
        Path(folder) if folder else default_folder(),
        kernel,
        qemu=os.environ.get("TAGALONG_LAB_QEMU"),
        rootfs=Path(rootfs) if rootfs else None,
        mirror=os.environ.get("TAGALONG_LAB_MIRROR"),
        with_guest=True,
    )


def collect(suites: Sequence[str]) -> list[str]:
    """Return the node ids of all tests that belong into the lab."""
    # The samples, which test this very tier, are run by themselves.
    marked = [] if "TAGALONG_LAB_SAMPLES" in os.environ else _files_with_the_marker()
    found = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.support.lab_collect", "--collect-only",
         "-p", "no:cacheprovider", "-q", *suites, *marked],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "TAGALONG_INSIDE_LAB": "1", "TAGALONG_LAB_SUITES": " ".join(suites)},
    )  # fmt: skip
    for line in found.stdout.split("\n"):  # splitlines would split at the mark
        if line.startswith(MARK):
            ids: list[str] = json.loads(line[1:])
            return ids
    raise RuntimeError(f"collecting the lab's tests failed:\n{found.stdout}{found.stderr}")


def _files_with_the_marker() -> list[str]:
    return [
        str(file.relative_to(ROOT))
        for file in sorted((ROOT / "tests").rglob("test_*.py"))
        if re.search(r"^\s*(@|pytestmark = )pytest\.mark\.lab\b", file.read_text(), re.MULTILINE)
    ]


class LabSession:
    """Runs the tests `ids` on `kernel` inside the lab, in a thread of its own."""

    def __init__(self, kernel: str, ids: Sequence[str]) -> None:
        self._kernel = kernel
        self._ids = ids
        self._changed = threading.Condition()
        self._reports: dict[str, list[Report]] = {node_id: [] for node_id in ids}
        self._is_over = False
        self._unfinished = b""
        self._other = bytearray()
        self._end = ""
        # A daemon: an interrupted outer run does not wait for the machine, and QEMU ends
        # with the thread that started it.
        threading.Thread(target=self._run, daemon=True).start()

    def reports_of(self, node_id: str) -> Iterator[Report]:
        """Give the reports of the test `node_id`; none, or not all, if the session has ended."""
        when = None
        while when != "teardown":
            with self._changed:
                self._changed.wait_for(lambda: self._reports[node_id] or self._is_over)
                if not self._reports[node_id]:
                    return
                report = self._reports[node_id].pop(0)
            when = report["when"]
            yield report

    def how_it_ended(self) -> str:
        """Return why there are no more reports."""
        return self._end

    def _run(self) -> None:
        try:
            status = self._boot_and_run()
            said = self._other[-_KEPT_BYTES:].decode(errors="replace")
            self._end = f"pytest in the lab ended with status {status}:\n{said}"
        except TagalongError as error:
            lost = "the machine was lost: " if isinstance(error, LostMachineError) else ""
            notes = "\n".join(getattr(error, "__notes__", ()))
            self._end = f"{lost}{error}\n{notes}"
        except BaseException as error:
            self._end = repr(error)
            raise
        finally:
            with self._changed:
                self._is_over = True
                self._changed.notify_all()

    def _boot_and_run(self) -> int:
        lab = set_up(request(self._kernel), SilentObserver())
        command = ["python3", "-m", "pytest", "-p", "tests.support.lab_reporter",
                   "-p", "no:cacheprovider", "-q", *self._ids]  # fmt: skip
        streams = Streams(self._hear, self._other.extend)
        options = EmulatorOptions(timeout_s=TIMEOUT_S)
        return run(lab.system, f"exec {shlex.join(command)}\n", options, streams)

    def _hear(self, data: bytes) -> None:
        *lines, self._unfinished = (self._unfinished + data).split(b"\n")
        for line in lines:
            if line.startswith(MARK.encode()):
                self._add(json.loads(line[1:]))
            else:
                self._other += line + b"\n"

    def _add(self, report: Report) -> None:
        with self._changed:
            self._reports[str(report["nodeid"])].append(report)
            self._changed.notify_all()
