"""A Linux guest on two real networks: QEMU's stream, and passt; both before and after it moves."""

import os
import socket
from pathlib import Path

import pytest

from bench.migrate.qemu import find_qemu
from tests.support.answering_server import AnsweringServer
from tests.support.fetch_debuggers import PASST, DebuggerMissingError
from tests.support.linux_guest import linux_guest_with
from tests.support.slirp_router import ADDRESS, SlirpRouter
from tests.support.vm_processes import tagalong, vm_process

TIMEOUT_S = 600.0
MACS = ("52:54:00:ab:cd:01", "52:54:00:ab:cd:02")
TALK = """
port=$1
shift
ip link set eth1 up
udhcpc -i eth1 -n -q -S -s /lib/guest/dhcp >/dev/null 2>&1
round=0
while :; do
	round=$((round + 1))
	number=0
	for gateway in "$@"; do
		card=eth$number
		number=$((number + 1))
		mac=$(cat /sys/class/net/$card/address)
		answer=$(echo "$card $mac $round" | timeout 5 nc $gateway $port)
		[ "$answer" = "answer to $card $mac $round" ] && echo "talk: $card answered"
	done
	ping -c 1 -W 10 $1 >/dev/null && echo "talk: ping answered"
done
"""


@pytest.fixture
def with_passt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a program called passt on the PATH."""
    try:
        command = PASST.find()
    except DebuggerMissingError as error:
        pytest.skip(f"missing passt (python -m tests.support.fetch_debuggers): {error}")
    folder = tmp_path / "bin"
    folder.mkdir()
    words = " ".join(f"'{word}'" for word in command)
    (folder / "passt").write_text(f'#!/bin/sh\nexec {words} "$@"\n')
    (folder / "passt").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def gateway_of_this_host() -> str:
    """Return the address of the default route, which passt gives its guest, too."""
    for line in Path("/proc/net/route").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1] == "00000000" and fields[2] != "00000000":
            return socket.inet_ntoa(bytes.fromhex(fields[2])[::-1])
    pytest.skip("missing a default route of this host, without which passt has no network")


@pytest.mark.usefixtures("with_passt")
@pytest.mark.timeout(TIMEOUT_S)
def test_linux_guest_talks_over_qemus_stream_and_passt_before_and_after_it_moves(
    tmp_path: Path,
) -> None:
    try:
        find_qemu()
    except SystemExit as error:
        pytest.skip(f"missing QEMU: {error}")
    gateway, address = gateway_of_this_host(), f"unix:{tmp_path / 'in'}"
    kernel, initrd = linux_guest_with(tmp_path, {"talk": TALK})
    backings = (f"unix:{tmp_path / 'slirp'}", "user")
    machine = ("--machine", "soft", "--clock", "host")
    new = [f"--net={back},mac={mac}" for back, mac in zip(backings, MACS, strict=True)]
    with AnsweringServer() as server, SlirpRouter(tmp_path / "slirp"):
        words = f"console=ttyAMA0 quiet -- talk {server.port} {ADDRESS} {gateway}"
        linux = ("--kernel", str(kernel), "--initrd", str(initrd), "--append", words)
        with vm_process(tmp_path, "a", *machine, *linux, *new) as source:
            for what in ("eth0", "eth1", "ping"):
                source.wait_for_console(f"talk: {what} answered", 2)
            old = [f"--net={back}" for back in backings]
            with vm_process(tmp_path, "b", *machine, "--incoming", address, *old) as there:
                there.incoming_uri()
                moved = tagalong("migrate", str(source.control), address, "--verify")
                assert moved.returncode == 0, moved.stderr
                # Its connection to the router is closed, which then accepts the other one.
                tagalong("quit", str(source.control))
                count = len(server.lines)
                for what in ("eth0", "eth1", "ping"):
                    there.wait_for_console(f"talk: {what} answered", 2)

    for number, mac in enumerate(MACS):
        assert any(line.startswith(f"eth{number} {mac} ") for line in server.lines[count:])
