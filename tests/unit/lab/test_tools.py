"""Tools of the host: their output, their words when they fail, and that they do not outlive us."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tagalong.errors import LabSetupError
from tagalong.lab.tools import ending_with_us, follow, output_of, require


def test_output_of_returns_standard_output_alone() -> None:
    assert output_of(["sh", "-c", "echo out; echo err >&2"], "try") == "out\n"


def test_output_of_a_failure_has_status_and_the_last_words() -> None:
    with pytest.raises(LabSetupError) as caught:
        output_of(["sh", "-c", "seq 20 >&2; echo the reason >&2; exit 3"], "fetch it")

    assert str(caught.value) == "cannot fetch it: sh ended with status 3"
    assert caught.value.__notes__ == ["14\n15\n16\n17\n18\n19\n20\nthe reason"]


def test_output_of_a_silent_failure_says_so() -> None:
    with pytest.raises(LabSetupError) as caught:
        output_of(["false"], "fetch it")

    assert caught.value.__notes__ == ["it printed no message"]


def test_output_of_a_program_that_is_not_there() -> None:
    with pytest.raises(LabSetupError, match=r"^cannot fetch it: cannot start /no/program$"):
        output_of(["/no/program"], "fetch it")


def test_follow_hears_every_line() -> None:
    lines: list[str] = []

    follow(["sh", "-c", "echo one; echo two"], "count", lines.append)

    assert lines == ["one", "two"]


def test_follow_with_a_status_descriptor_hears_that_only() -> None:
    lines: list[str] = []

    follow(
        ["bash", "-c", 'echo noise; echo news >&"$1"', "bash"], "listen", lines.append,
        status=lambda descriptor: [str(descriptor)],
    )  # fmt: skip

    assert lines == ["news"]


def test_follow_a_failure_has_the_tools_words() -> None:
    with pytest.raises(LabSetupError) as caught:
        follow(["sh", "-c", "echo it broke >&2; exit 100"], "download", lambda _: None)

    assert str(caught.value).startswith("cannot download: sh ended with status 100")
    assert caught.value.__notes__ == ["it broke"]


def test_follow_that_is_interrupted_ends_the_tool(tmp_path: Path) -> None:
    def interrupt(line: str) -> None:
        (tmp_path / "pid").write_text(line)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        follow(["sh", "-c", "echo $$; exec sleep 100"], "sleep", interrupt)

    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_ending_with_us_child_ends_when_its_parent_is_killed() -> None:
    script = (
        "import subprocess, time\n"
        "from tagalong.lab.tools import ending_with_us\n"
        "child = subprocess.Popen(ending_with_us(['sh', '-c', 'echo $$; exec sleep 100']))\n"
        "time.sleep(100)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.kill()

    deadline = time.monotonic() + 5
    while Path(f"/proc/{child}").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not Path(f"/proc/{child}").exists()


def test_ending_with_us_is_the_command_otherwise() -> None:
    run = subprocess.run(
        ending_with_us(["sh", "-c", "echo $0-$1; exit 7", "a", "b c"]),
        capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert (run.stdout, run.returncode) == ("a-b c\n", 7)


def test_require_names_the_tool_and_the_way_out() -> None:
    with pytest.raises(LabSetupError) as caught:
        require("no-such-apt", "fetch the lab's pieces")

    assert str(caught.value) == (
        "cannot fetch the lab's pieces: no-such-apt is not on the PATH; on a host without apt, "
        "give your own --qemu, --kernel and --rootfs"
    )
