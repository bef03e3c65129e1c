"""The VMM's command line: what is refused, and what is added."""

from pathlib import Path

import pytest

from tagalong.beside.command import (
    awaits_migration,
    check_command,
    environment,
    library_path,
    with_monitor,
)
from tagalong.errors import UsageError

QEMU = ["qemu-system-aarch64", "-M", "virt,gic-version=3", "-accel", "kvm", "-m", "4G"]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["-daemonize"], "-daemonize: this process stays beside"),
        (["-accel", "kvm,dirty-ring-size=4096"], "leave dirty-ring-size out"),
        (["-M", "virt,mte=on"], "leave mte=on out"),
        (["-M", "virt,mte=y"], "leave mte=on out"),
        (["--machine", "virt,accel=tcg"], "use -accel kvm"),
        (["-accel", "tcg,thread=multi"], "use -accel kvm"),
    ],
)
def test_command_that_cannot_be_carried_is_refused_by_name(more: list[str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        check_command([*QEMU, *more])


@pytest.mark.parametrize(
    "more",
    [
        [],
        ["-accel", "kvm,dirty-ring-size=0"],
        ["-M", "virt,mte=off"],
        ["-append", "mte=on accel=tcg"],
        ["-name", "tcg"],
    ],
)
def test_command_that_can_be_carried_is_accepted(more: list[str]) -> None:
    check_command([*QEMU, *more])


def test_command_that_is_missing_is_wrong_usage() -> None:
    with pytest.raises(UsageError, match="no command: give it behind --"):
        check_command([])


def test_monitor_is_added_on_an_inherited_descriptor() -> None:
    command = with_monitor(QEMU, 7)

    assert command[: len(QEMU)] == QEMU
    assert "socket,id=tagalong,fd=7,server=on,wait=off" in command


@pytest.mark.parametrize("option", ["-incoming", "--incoming"])
def test_incoming_is_recognised(option: str) -> None:
    assert awaits_migration([*QEMU, option, "defer"])
    assert not awaits_migration(QEMU)


def test_environment_keeps_what_is_preloaded_and_says_whether_to_hold() -> None:
    base = {"LD_PRELOAD": "other.so", "TAGALONG_BESIDE_HOLD": "1", "A": "b"}

    source = environment(base, Path("/lib.so"), 5, holds=False)
    destination = environment({}, Path("/lib.so"), 5, holds=True)

    assert source == {"LD_PRELOAD": "/lib.so other.so", "TAGALONG_BESIDE_FD": "5", "A": "b"}
    assert destination["TAGALONG_BESIDE_HOLD"] == "1"
    assert destination["LD_PRELOAD"] == "/lib.so"


def test_library_is_in_the_package_and_for_arm64() -> None:
    image = library_path().read_bytes()

    assert image[:4] == b"\x7fELF"
    assert int.from_bytes(image[18:20], "little") == 183  # EM_AARCH64
