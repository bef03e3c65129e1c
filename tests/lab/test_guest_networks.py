"""A Linux guest of KVM on two networks while it moves: a tap device at a bridge, and passt.

One guest moves once, in the lab; each test looks at one thing that came of it. The guest sends
numbered lines over both networks, each with its own clock; a program of the host pings it.
"""

import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median

import pytest

from tests.support.answering_server import AnsweringServer
from tests.support.bridge import Announcements, Bridge, outside, why_not
from tests.support.line_recorder import LineRecorder, RecordedConnection
from tests.support.linux_guest import linux_guest_with
from tests.support.passt_process import NOBODY, PasstProcess, passt_processes
from tests.support.ping import PING_INTERVAL_S, Answer, Pinger
from tests.support.vm_processes import VmProcess, tagalong, until, vm_process

TIMEOUT_S = 900.0
pytestmark = [pytest.mark.lab, pytest.mark.timeout(TIMEOUT_S)]

WAIT_S = TIMEOUT_S / 5
MACS = ("52:54:00:ab:cd:01", "52:54:00:ab:cd:02")
TAPS = ("tap-a", "tap-b")
HOST, GUEST = "10.9.9.1", "10.9.9.2"
ANSWERED = "talk: passt answered"
# Of the downtime; a lost announcement or a reset connection takes many times as long, or for ever.
LONGEST_GAP = 10

# $1: the port of who records lines, $2: that of who answers; $3: the gateway that passt gives.
TALK = f"""
count() {{
	number=0
	while :; do
		number=$((number + 1))
		read -r uptime rest </proc/uptime
		echo "$number $uptime"
		sleep 0.1
	done
}}
mac() {{ cat /sys/class/net/$1/address; }}
address() {{ ip -4 -o address show dev $1 | awk '{{ print $4 }}'; }}
ip address add {GUEST}/24 dev eth1
ip link set eth1 up
until [ "$(address eth0)" ]; do sleep 0.2; done
count | nc {HOST} $1 &
count | nc $3 $1 &
while :; do
	answer=$(echo hello | timeout 20 nc $3 $2)
	[ "$answer" = "answer to hello" ] &&
		echo "{ANSWERED} $(address eth0) $(mac eth0) $(mac eth1)"
	sleep 1
done
"""


@dataclass(frozen=True)
class Journey:
    """What was seen. `taps`: behind which the bridge saw the guest, before and after."""

    downtime_s: float
    over_tap: list[RecordedConnection]
    over_passt: list[RecordedConnection]
    pings: list[Answer]
    announced: list[str]
    taps: tuple[str | None, str | None]
    sandboxes: list[PasstProcess]
    said: tuple[str, str]


@pytest.fixture(scope="module")
def journey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Journey]:
    if reason := why_not() or ("" if shutil.which("passt") else "missing passt"):
        pytest.skip(reason)
    with (
        Bridge("inside", HOST, taps=TAPS) as bridge,
        outside() as network,
        LineRecorder() as recorder,
        AnsweringServer() as server,
    ):
        words = f"console=ttyAMA0 quiet -- talk {recorder.port} {server.port} {network.gateway}"
        yield travel(tmp_path_factory.mktemp("networks"), words, bridge, recorder)


def travel(folder: Path, words: str, bridge: Bridge, recorder: LineRecorder) -> Journey:
    kernel, initrd = linux_guest_with(folder, {"talk": TALK})
    address, mac = f"unix:{folder / 'in'}", bytes.fromhex(MACS[1].replace(":", ""))
    linux = ("--kernel", str(kernel), "--initrd", str(initrd), "--append", words)
    new = (f"--net=user,mac={MACS[0]}", f"--net=tap:{TAPS[0]},mac={MACS[1]}")
    old = ("--net=user", f"--net=tap:{TAPS[1]}")
    with vm_process(folder, "a", "--machine", "kvm", *linux, *new) as source:
        source.wait_for_console(ANSWERED, 2, WAIT_S)
        with (
            vm_process(folder, "b", "--machine", "kvm", "--incoming", address, *old) as there,
            Announcements(TAPS[1], mac) as announcements,
            Pinger(GUEST) as pinger,
        ):
            there.incoming_uri()
            wait_for_lines(recorder, pinger)
            before = bridge.tap_of(mac)
            moved = migrate(source, address)
            wait_for_lines(recorder, pinger)
            there.wait_for_console(ANSWERED, 2, WAIT_S)
            sandboxes = [each for vm in (source, there) for each in passt_processes(vm.process.pid)]
            tagalong("quit", str(source.control))
            over_passt = recorder.of("127.0.0.1")
            until(lambda: over_passt[0].has_ended, "the end of a connection of passt", WAIT_S)
            return Journey(
                downtime_s=moved / 1000,
                over_tap=recorder.of(GUEST),
                over_passt=over_passt,
                pings=list(pinger.answers),
                announced=announcements.kinds,
                taps=(before, bridge.tap_of(mac)),
                sandboxes=sandboxes,
                said=(last_answer(source), last_answer(there)),
            )


def migrate(source: VmProcess, address: str) -> float:
    """Move the guest, and return its downtime in ms."""
    ran = tagalong(
        "migrate", str(source.control), address, "--verify", "--json", "--max-downtime", "20000",
        timeout_s=WAIT_S,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return float(json.loads(ran.stdout)["downtime_ms"])


def wait_for_lines(recorder: LineRecorder, pinger: Pinger) -> None:
    """Wait for 20 more lines over the tap, and for five more answers to pings."""
    until(lambda: bool(recorder.of(GUEST)), "a connection over the tap", WAIT_S)
    lines, pings = recorder.of(GUEST)[0].lines, len(pinger.answers)
    count = len(lines)
    until(
        lambda: len(lines) >= count + 20 and len(pinger.answers) >= pings + 5,
        "more lines and answers",
        WAIT_S,
    )


def last_answer(vm: VmProcess) -> str:
    """Return the last line about an answer that is on the console as a whole."""
    lines = vm.console.splitlines(keepends=True)
    return [line.rstrip() for line in lines if ANSWERED in line and line.endswith("\n")][-1]


def test_stream_over_a_tap_loses_nothing_and_pauses_with_the_guest(
    journey: Journey, capsys: pytest.CaptureFixture[str]
) -> None:
    (stream,) = journey.over_tap
    lines = stream.lines[:-1]  # the last one may be a part
    numbers, clock = zip(*(line.text.split() for line in lines), strict=True)
    times_s = [line.time_s for line in lines]
    guest_s = list(map(float, clock))
    gaps_s = [later - earlier for earlier, later in pairwise(times_s)]
    ahead_s = [here - there for here, there in zip(times_s, guest_s, strict=True)]
    at = gaps_s.index(max(gaps_s)) + 1
    stood_s = median(ahead_s[at:]) - median(ahead_s[:at])
    tell(capsys, "longest gap of a stream", max(gaps_s), journey)
    tell(capsys, "time that the guest's clock stood", stood_s, journey)

    assert list(map(int, numbers)) == list(range(1, len(numbers) + 1))
    assert guest_s == sorted(guest_s)
    assert stood_s > journey.downtime_s / 2  # it stands while the guest is on its way
    assert max(gaps_s) < journey.downtime_s * LONGEST_GAP


def test_guest_answers_pings_again_after_its_downtime(
    journey: Journey, capsys: pytest.CaptureFixture[str]
) -> None:
    gap_s = max(later.time_s - earlier.time_s for earlier, later in pairwise(journey.pings))
    lost = journey.pings[-1].number - journey.pings[0].number + 1 - len(journey.pings)
    tell(capsys, f"longest gap of ping ({lost} lost)", gap_s, journey)

    assert gap_s < journey.downtime_s * LONGEST_GAP
    assert lost * PING_INTERVAL_S < 2 * gap_s  # that is, hardly any beside those in the gap


def test_guest_announces_its_kept_address_at_the_port_where_it_arrives(journey: Journey) -> None:
    assert sorted(journey.announced) == ["ARP", "RARP"]  # the driver, and the machine
    assert journey.taps == TAPS


def test_connections_of_passt_end_with_it_and_new_ones_are_answered(journey: Journey) -> None:
    (ended,) = journey.over_passt
    numbers = [int(line.text.split()[0]) for line in ended.lines[:-1]]

    assert ended.has_ended
    assert numbers == list(range(1, len(numbers) + 1))
    assert journey.said == (f"{ANSWERED} 10.77.0.2/24 {' '.join(MACS)}",) * 2


def test_passt_of_each_side_is_shut_in_as_nobody(journey: Journey) -> None:
    assert len(journey.sandboxes) == 2
    for process in journey.sandboxes:
        assert (process.user, process.capabilities, process.sees) == (NOBODY, 0, ())
        assert process.apart >= {"user", "mnt", "ipc", "uts"}


def tell(capsys: pytest.CaptureFixture[str], what: str, seconds: float, journey: Journey) -> None:
    with capsys.disabled():
        ratio = seconds / journey.downtime_s
        sys.stdout.write(f"\n{what}: {seconds:.2f} s, {ratio:.2f} of the downtime\n")
