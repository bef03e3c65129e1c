"""The wrapper for libvirt: the calls that libvirt makes, replayed."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tagalong.beside import wrapper
from tagalong.beside.vmm import socket_for
from tagalong.beside.wrapper import (
    WrapperSettings,
    guest_name,
    read_settings,
    runs_a_guest,
)
from tagalong.errors import HostError, UsageError

# As libvirt probes an emulator (qemuProcessQMPLaunch), and asks it by hand.
PROBES = (
    ["-version"],
    ["--help"],
    ["-machine", "help"],
    ["-S", "-no-user-config", "-nodefaults", "-nographic", "-machine", "none,accel=kvm:tcg",
     "-qmp", "unix:/var/lib/libvirt/qemu/qmp-1/qmp.monitor,server=on,wait=off",
     "-pidfile", "/var/lib/libvirt/qemu/qmp-1/qmp.pid", "-daemonize"],
    ["-S", "-no-user-config", "-nodefaults", "-nographic", "-machine", "none,accel=tcg",
     "-qmp", "unix:x,server=on,wait=off", "-pidfile", "p", "-daemonize"],
)  # fmt: skip

# As libvirt starts a domain (qemuBuildCommandLine), shortened.
DOMAIN = [
    "-name", "guest=arm 1,debug-threads=on", "-S",
    "-object", '{"qom-type":"secret","id":"masterKey0"}',
    "-machine", "virt,usb=off,gic-version=3,dump-guest-core=off,memory-backend=mach-virt.ram",
    "-accel", "kvm", "-cpu", "host", "-m", "size=4194304k",
    "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
    "-chardev", "socket,id=charmonitor,fd=25,server=on,wait=off",
    "-mon", "chardev=charmonitor,id=monitor,mode=control",
]  # fmt: skip

# Writes what it was started with, as JSON, and stays until it is told to go.
FAKE_QEMU = f"""#!{sys.executable}
import json, os, sys, time
from pathlib import Path
with open(os.environ["OUT"] + ".part", "w") as out:
    env = {{n: v for n, v in os.environ.items() if "TAGALONG" in n or "LD_" in n}}
    json.dump({{"argv": sys.argv[1:], "pid": os.getpid(), "env": env}}, out)
os.rename(os.environ["OUT"] + ".part", os.environ["OUT"])
while "-name" in sys.argv and not Path(os.environ["OUT"] + ".go").exists():
    time.sleep(0.02)
"""


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    fake = tmp_path / "qemu"
    fake.write_text(FAKE_QEMU)
    fake.chmod(0o755)
    path = tmp_path / "beside.toml"
    path.write_text(
        f'vmm = "{fake}"\nfolder = "{tmp_path}"\nincoming = "unix:{tmp_path}/{{name}}.in"\n'
    )
    return path


def start(settings: Path, arguments: list[str]) -> "subprocess.Popen[bytes]":
    others = {name: value for name, value in os.environ.items() if "TAGALONG" not in name}
    return subprocess.Popen(
        [sys.executable, "-c", "from tagalong.cli.wrapper import main; main()", *arguments],
        env={**others, "TAGALONG_BESIDE_SETTINGS": str(settings), "OUT": str(out(settings))},
        stderr=subprocess.DEVNULL,
    )


def out(settings: Path) -> Path:
    return settings.with_name("out")


def read(settings: Path) -> dict[str, object]:
    deadline = time.monotonic() + 60
    while not out(settings).exists():
        assert time.monotonic() < deadline, "QEMU was not started"
        time.sleep(0.02)
    found: dict[str, object] = json.loads(out(settings).read_text())
    return found


@pytest.mark.parametrize("arguments", PROBES, ids=lambda arguments: arguments[0])
def test_call_that_probes_passes_through_unchanged(settings: Path, arguments: list[str]) -> None:
    process = start(settings, arguments)
    assert process.wait(60) == 0

    found = read(settings)

    assert found["argv"] == arguments
    assert found["pid"] == process.pid
    assert set(found["env"]) == {"TAGALONG_BESIDE_SETTINGS"}  # type: ignore[call-overload]


@pytest.mark.parametrize("incoming", [[], ["-incoming", "defer"]], ids=["start", "incoming"])
def test_domain_runs_under_the_library_in_the_process_that_libvirt_knows(
    settings: Path, incoming: list[str]
) -> None:
    process = start(settings, [*DOMAIN, *incoming])
    found = read(settings)
    control = settings.with_name("arm_1.sock")
    deadline = time.monotonic() + 60
    while not control.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    is_beside = control.exists()
    out(settings).with_name("out.go").touch()
    status = process.wait(60)
    while [*control.parent.glob("arm_1.sock*")] and time.monotonic() < deadline:
        time.sleep(0.02)  # the process beside ends, too

    argv, variables = found["argv"], found["env"]
    assert isinstance(argv, list)
    assert isinstance(variables, dict)
    assert found["pid"] == process.pid
    assert argv[: len(DOMAIN) + len(incoming)] == [*DOMAIN, *incoming]
    assert argv[-1] == "chardev=tagalong,mode=control"
    assert variables["LD_PRELOAD"].endswith("libtagalong-beside.so")
    assert ("TAGALONG_BESIDE_HOLD" in variables) is bool(incoming)
    assert is_beside
    assert status == 0
    assert [*control.parent.glob("arm_1.sock*")] == []


def test_domain_whose_tags_cannot_be_awaited_is_not_started(settings: Path) -> None:
    """As of two domains that arrive at the same time and share a port."""
    with socket_for(settings.with_name("arm_1.in"), "socket"):
        process = start(settings, [*DOMAIN, "-incoming", "defer"])

        assert process.wait(60) == HostError.exit_code

    assert not out(settings).exists()
    assert [*settings.parent.glob("arm_1.sock*")] == []


def test_domain_whose_name_is_in_use_waits_for_the_end_of_a_process_that_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    control = tmp_path / "web.sock"
    with socket_for(control, "socket") as before:
        threading.Timer(0.1, before.close).start()
        wrapper._require_free(control, "web")
    assert not control.exists()

    monkeypatch.setattr(wrapper, "_ENDS_S", 0.0)
    with socket_for(control, "socket"), pytest.raises(UsageError, match="is web running already"):
        wrapper._require_free(control, "web")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("vmm = 5", "vmm is no setting, or no text"),
        ('emulator = "x"', "there are folder, incoming, tls_dir, vmm"),
        ("vmm = ", "cannot read"),
        ("vmm = " + "[" * 10_000, "cannot read"),
        ("vmm = " + "9" * 10_000, "cannot read"),
        ('vmm = "a\\u0000b"', "vmm is no setting, or no text"),
        ("#" * 100_000, "more than 65536 bytes"),
    ],
)
def test_settings_that_are_wrong_are_named(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "s.toml"
    path.write_text(text)

    with pytest.raises(UsageError, match=words):
        read_settings(path, is_required=True)


def test_settings_in_a_fifo_are_awaited_from_nobody(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    os.mkfifo(path)

    assert read_settings(path, is_required=True) == WrapperSettings()


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["-name", "guest=web-1,debug-threads=on"], "web-1"),
        (["-name", "plain"], "plain"),
        (["-name", "guest=../../etc/x"], ".._.._etc_x"),
    ],
)
def test_name_of_a_guest_is_a_file_name(arguments: list[str], name: str) -> None:
    assert guest_name(arguments) == name


def test_guest_without_a_name_has_the_number_of_its_process() -> None:
    assert guest_name([]) == str(os.getpid())


def test_guest_under_tcg_is_none_of_ours() -> None:
    assert not runs_a_guest(["-machine", "virt", "-accel", "tcg"])
    assert not runs_a_guest(["-machine", "virt"])
    assert runs_a_guest(["-machine", "virt,accel=kvm"])
