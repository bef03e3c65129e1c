"""`tagalong demo` from outside: what it prints, its exit status, and what it leaves behind."""

import json
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.linux_guest import linux_guest
from tests.support.vm_processes import TAGALONG, TIMEOUT_S, tagalong, until


def children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(word) for word in text.split()]


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which the demo makes its temporary folder."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def test_demo_succeeds_and_a_person_understands_it(scratch: Path) -> None:
    result = tagalong("demo")

    assert result.returncode == 0, result.stdout + result.stderr
    assert "runs on at the destination, and its tags still protect it" in result.stdout
    assert "digests of all memory and tags are equal on both sides" in result.stdout
    assert all(line.startswith("tagalong: ") for line in result.stderr.splitlines())
    assert list(scratch.iterdir()) == []


def test_demo_json_has_the_promised_keys_and_they_agree(scratch: Path) -> None:
    result = tagalong("demo", "--json", "--vcpus", "2", "--ram", "32M")

    assert result.returncode == 0, result.stdout + result.stderr
    report = json.loads(result.stdout)
    assert report["verified"] is True
    assert report["rounds"] >= 2
    assert 0 < report["downtime_ms"] < 5000
    assert report["ram_bytes"] == 32 << 20
    assert report["tag_bytes_raw"] == report["data_bytes"] // 32
    assert 0 < report["tag_bytes_wire"] < report["tag_bytes_raw"]
    assert report["guest_progress_after"] > report["guest_progress_before"] > 0
    assert report["guest_faults_after"] > report["guest_faults_before"]
    assert report["guest_failures"] == 0
    assert 0 < report["tagged_granules"] < report["granules"] == (32 << 20) // 16
    assert list(scratch.iterdir()) == []


def test_demo_drop_tags_guest_notices(scratch: Path) -> None:
    result = tagalong("demo", "--drop-tags", "--json")

    assert result.returncode == 1, result.stdout + result.stderr
    report = json.loads(result.stdout)
    assert report["tags_dropped"] is True
    assert report["verified"] is False
    assert report["guest_failures"] > 0
    assert report["tagged_granules"] > 0
    assert report["guest_failure_lines"][0].startswith("churn: FAIL")
    assert list(scratch.iterdir()) == []


@pytest.mark.timeout(900)
def test_demo_of_linux_without_its_tags_says_where_the_first_wrong_granule_is(
    scratch: Path,
) -> None:
    kernel, initrd = linux_guest()

    result = tagalong(
        "demo", "--guest", "linux", "--kernel", str(kernel), "--initrd", str(initrd),
        "--machine", "soft", "--vcpus", "2", "--drop-tags", "--json", timeout_s=840,
    )  # fmt: skip

    assert result.returncode == 1, result.stdout + result.stderr
    report = json.loads(result.stdout)
    assert report["guest_failure_lines"][0].startswith("tagkeeper: FAIL ")
    assert report["guest_progress_before"] > 0
    assert report["guest_faults_before"] > 0
    assert list(scratch.iterdir()) == []


def test_demo_options_of_linux_are_for_linux() -> None:
    for options, message in (
        (("--kernel", "Image"), "--kernel and --initrd are for --guest linux; leave them out"),
        (
            ("--guest", "linux", "--initrd", "x"),
            "--kernel and --initrd belong together; give both, or none",
        ),
    ):
        result = tagalong("demo", *options)

        assert (result.returncode, result.stderr) == (2, f"tagalong: error: {message}\n")


def test_demo_drop_tags_says_in_words_that_the_guest_noticed(scratch: Path) -> None:
    result = tagalong("demo", "--drop-tags")

    assert result.returncode == 1
    assert "DROPPED" in result.stdout
    assert "The tags were dropped on purpose, and the guest noticed" in result.stdout
    assert list(scratch.iterdir()) == []


def test_demo_that_cannot_start_says_why_and_leaves_nothing(scratch: Path) -> None:
    result = tagalong("demo", "--ram", "1M")

    assert result.returncode == 20
    error = "tagalong: error: the source process ended with status 22: guest segment 0x"
    assert error in result.stderr
    assert "Traceback" not in result.stderr
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_demo_ended_by_a_signal_leaves_no_process_behind(
    scratch: Path, number: signal.Signals
) -> None:
    # A guest with this much to do has not made its progress yet when the signal comes.
    demo = subprocess.Popen(
        [*TAGALONG, "demo"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    until(lambda: len(children(demo.pid)) == 2, "both processes")
    started = children(demo.pid)

    demo.send_signal(number)
    output, messages = demo.communicate(timeout=TIMEOUT_S)

    assert demo.returncode == (-number if number is signal.SIGKILL else 128 + number)
    assert output == ""
    assert "Traceback" not in messages
    until(lambda: not any(is_alive(pid) for pid in started), "the processes to be gone")
    if number is not signal.SIGKILL:
        assert list(scratch.iterdir()) == []
