"""The VMM's process and ours: who starts, who ends, and what each hears of the other."""

import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tagalong.beside.incoming import AwaitedTags
from tagalong.beside.process import BesideOptions, attach, run_beside
from tagalong.beside.vmm import LIBRARY_SUFFIX, MONITOR_SUFFIX, beside, socket_for
from tagalong.errors import HostError, UsageError

# Writes down its environment and what it inherited, then ends as its arguments say.
FAKE_VMM = f"""#!{sys.executable}
import os, sys, time
fd = int(os.environ["TAGALONG_BESIDE_FD"])
inherited = os.readlink(f"/proc/self/fd/{{fd}}").startswith("socket:")
held = "TAGALONG_BESIDE_HOLD" in os.environ
open(os.environ["OUT"], "w").write(f"{{inherited}} {{held}} {{sys.argv[-3]}}")
if sys.argv[1] == "wait":
    time.sleep(60)
sys.exit(int(sys.argv[1]))
"""


@pytest.fixture
def vmm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OUT", str(tmp_path / "out"))
    program = tmp_path / "vmm"
    program.write_text(FAKE_VMM)
    program.chmod(0o755)
    return program


def ignore(_: str) -> None:
    """Say nothing."""


def test_status_of_the_vmm_is_ours_and_no_socket_stays(vmm: Path, tmp_path: Path) -> None:
    status = run_beside([str(vmm), "7"], BesideOptions(tmp_path / "c.sock"), ignore)

    assert status == 7
    seen = (tmp_path / "out").read_text()
    assert seen.startswith("True False socket,id=tagalong,fd=")
    assert [path.name for path in tmp_path.glob("c.sock*")] == []


def test_vmm_that_awaits_tags_is_told_to_hold_its_guest(vmm: Path, tmp_path: Path) -> None:
    options = BesideOptions(tmp_path / "c.sock", AwaitedTags(f"unix:{tmp_path}/in"))

    run_beside([str(vmm), "0", "-incoming", "defer"], options, ignore)

    assert (tmp_path / "out").read_text().startswith("True True ")


def test_vmm_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="cannot start /no/such: No such file"):
        run_beside(["/no/such"], BesideOptions(tmp_path / "c.sock"), ignore)

    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("name", [".", "..", "/"])
def test_control_socket_that_is_a_folder_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="it is a folder; give a name"):
        run_beside(["true"], BesideOptions(Path(name)), ignore)


@pytest.mark.parametrize(
    ("more", "incoming", "words"),
    [
        ([], "unix:in", "give it -incoming URI, too"),
        (["-incoming", "defer"], None, "its tags must be awaited, too"),
    ],
)
def test_tags_and_the_rest_are_awaited_together_or_not_at_all(
    vmm: Path, tmp_path: Path, more: list[str], incoming: str | None, words: str
) -> None:
    awaited = AwaitedTags(incoming) if incoming else None

    with pytest.raises(UsageError, match=words):
        run_beside([str(vmm), "0", *more], BesideOptions(tmp_path / "c.sock", awaited), ignore)

    assert not (tmp_path / "out").exists()


def test_signal_is_passed_on_to_the_vmm(vmm: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "tagalong", "beside", "--control", str(tmp_path / "c.sock"), "--",
         str(vmm), "wait"],
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not (tmp_path / "out").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)

    process.send_signal(signal.SIGTERM)

    assert process.wait(60) == 128 + signal.SIGTERM


def test_attaching_where_no_socket_is_names_it(tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"c\.sock\.kvm \(the library's socket\) is missing"):
        attach(os.getpid(), BesideOptions(tmp_path / "c.sock"), ignore)


def test_attaching_to_the_wrong_process_leaves_the_vmm_its_sockets(tmp_path: Path) -> None:
    control = tmp_path / "c.sock"
    paths = [beside(control, LIBRARY_SUFFIX), beside(control, MONITOR_SUFFIX)]
    with ExitStack() as stack:
        for path in paths:
            stack.enter_context(socket_for(path, "socket"))
        wrong = stack.enter_context(subprocess.Popen(["true"]))

        with pytest.raises(UsageError, match=f"process {wrong.pid} has ended, but a VMM still"):
            attach(wrong.pid, BesideOptions(control), ignore)

        assert all(path.is_socket() for path in paths)
