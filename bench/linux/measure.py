"""One run of a guest: boot, disk, network, device accesses, processor time."""

import os
import re
import subprocess
import time
from pathlib import Path
from typing import IO

from bench.linux.contestants import Files, Vmm
from bench.linux.peer import END_BYTES, FLOOD_BYTES, BenchPeer
from tagalong._native import LIBRARY_FOLDER
from tagalong.lab.cpio import CpioWriter

Figures = dict[str, float]

_DISK_BYTES = 64 << 20
_TIMEOUT_S = 300.0
_CONSOLE_BYTES = 16384
_SCRIPT = f"""#!/bin/busybox sh
echo "measure: up"
now() {{ cut -d' ' -f1 /proc/uptime; }}
rate() {{ # bytes, seconds before, seconds after
	awk "BEGIN {{ printf \\"%.3f\\", $1 / ($3 - $2) / 1e6 }}"
}}
disk() {{ # name, arguments of dd
	name=$1
	shift
	before=$(now)
	dd bs=262144 count=128 "$@" 2>/dev/null
	echo "measure: $name=$(rate 33554432 $before $(now))"
}}
disk disk_write_mb_s if=/dev/zero of=/dev/vda oflag=direct
disk disk_read_mb_s if=/dev/vda of=/dev/null iflag=direct
before=$(now)
dd if=/dev/vda of=/dev/null bs=4096 count=2048 iflag=direct 2>/dev/null
echo "measure: disk_4k_reads_k_s=$(rate 2048000 $before $(now))"
ip link set eth0 up
ip address add 10.9.9.2/24 dev eth0
statistics=/sys/class/net/eth0/statistics
blast 10.9.9.1 1 >/dev/null # the peer's address is known now
sent=$(cat $statistics/tx_bytes)
before=$(now)
blast 10.9.9.1 4 >/dev/null
after=$(now)
echo "measure: net_send_mb_s=$(rate $(($(cat $statistics/tx_bytes) - sent)) $before $after)"
ping -c 1 -W 1 -s {FLOOD_BYTES} 10.9.9.1 >/dev/null
received=$(cat $statistics/rx_bytes)
before=$(now)
sleep 4
after=$(now)
echo "measure: net_receive_mb_s=$(rate $(($(cat $statistics/rx_bytes) - received)) $before $after)"
ping -c 1 -W 1 -s {END_BYTES} 10.9.9.1 >/dev/null
echo "measure: net_sent_mb=$(rate $(cat $statistics/tx_bytes) 0 1)"
before=$(now)
head -c {_CONSOLE_BYTES} /dev/zero | tr '\\0' '.' >/dev/console
after=$(now)
echo
echo "measure: console_kb_s=$(rate {_CONSOLE_BYTES}000 $before $after)"
"""
_FIGURE = re.compile(r"^measure: (\w+)=([\d.]+)\s*$", re.MULTILINE)


def with_script(initrd: Path, folder: Path) -> Path:
    """Return a copy of the initial RAM disk whose guest has the script `measure`."""
    target = folder / "initrd"
    with target.open("wb") as out:
        out.write(initrd.read_bytes())
        writer = CpioWriter(out)
        writer.add_file("bin/measure", _SCRIPT.encode(), permissions=0o755)
        blast = LIBRARY_FOLDER / "blast.elf"  # built for the lab alone
        writer.add_file("bin/blast", blast.read_bytes(), permissions=0o755)
        writer.close()
    return target


def measure_boot(vmm: Vmm, files: Files) -> Figures:
    """Run the guest to its first line, and return what that took: see `measure`."""
    _prepare(files)
    with BenchPeer(files.net), files.console.open("wb") as console:
        began = time.monotonic()
        process = _start(vmm, files, console)
        try:
            _wait_for(files, process, "measure: up")
            return {"boot_s": time.monotonic() - began, "boot_cpu_s": _cpu_s(process.pid)}
        finally:
            process.kill()
            process.wait()


def _prepare(files: Files) -> None:
    files.net.unlink(missing_ok=True)
    with files.disk.open("wb") as disk:
        disk.truncate(_DISK_BYTES)


def _start(vmm: Vmm, files: Files, console: IO[bytes]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        vmm.command(files), stdin=subprocess.DEVNULL, stdout=console, stderr=console
    )


def measure(vmm: Vmm, files: Files) -> Figures:
    """Run the guest once and return its figures. Raises SystemExit if it did not come to its end.

    boot_s: from the command to the guest's first line; cpu_s: of the VMM's process in all, so far
    as it is for boot (boot_cpu_s), and for everything (all_cpu_s). net_arrived: which part of what
    the guest sent the peer got; the rest was dropped.
    """
    _prepare(files)
    with BenchPeer(files.net) as peer, files.console.open("wb") as console:
        began = time.monotonic()
        process = _start(vmm, files, console)
        try:
            _wait_for(files, process, "measure: up")
            boot_s, boot_cpu_s = time.monotonic() - began, _cpu_s(process.pid)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    said = files.console.read_text("ascii", "replace").replace("\r", "")
    found = {name: float(value) for name, value in _FIGURE.findall(said)}
    if "console_kb_s" not in found:
        raise SystemExit(f"the guest did not come to its end: {said[-1000:]}")
    all_cpu_s = usage.ru_utime + usage.ru_stime
    arrived = peer.taken_bytes / 1e6 / found.pop("net_sent_mb")
    return {
        "boot_s": boot_s, "boot_cpu_s": boot_cpu_s, **found, "net_arrived": arrived,
        "all_cpu_s": all_cpu_s,
    }  # fmt: skip


def _wait_for(files: Files, process: "subprocess.Popen[bytes]", text: str) -> None:
    deadline = time.monotonic() + _TIMEOUT_S
    while text not in files.console.read_text("ascii", "replace"):
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"no {text!r}: {files.console.read_text('ascii', 'replace')[-1000:]}")
        time.sleep(0.02)


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
