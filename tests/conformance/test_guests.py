"""Guests of which each line is a check of their own: all must pass on every machine."""

import platform
import re
import time

import numpy as np
import pytest

from tagalong.memory import Gpa
from tagalong.mte.tags import unpack
from tests.support.running_guest import Boot

# KVM before Linux 6.2 does not know cache maintenance by set and way with tags and gives
# the guest an UNDEF (docs/guide/kvm.md).
SET_WAY_WITH_TAGS = {
    f"maintenance.dc_{name}" for name in ("igsw", "igdsw", "cgsw", "cgdsw", "cigsw", "cigdsw")
}


def known_failures(machine_name: str) -> set[str]:
    """Return the checks that fail on this kernel's KVM with any VMM."""
    release = tuple(int(part) for part in re.findall(r"\d+", platform.release())[:2])
    return SET_WAY_WITH_TAGS if machine_name == "kvm" and release < (6, 2) else set()


def test_selftest_every_instruction_and_mode_passes(boot: Boot, machine_name: str) -> None:
    lines = boot("selftest", "show=failed").run_to_the_end()

    failed = {line.split()[2].rstrip(":") for line in lines if "FAIL" in line}
    known = known_failures(machine_name)
    assert failed == known
    verdict = re.fullmatch(r"selftest: (\d+) checks, (\d+) failed", lines[-1])
    assert verdict is not None
    assert int(verdict[1]) > 400
    assert int(verdict[2]) == len(known)


def test_selftest_with_two_vcpus_starts_the_second(boot: Boot, machine_name: str) -> None:
    lines = boot("selftest", "show=failed", vcpu_count=2).run_to_the_end()

    assert lines[-1].endswith(f" {len(known_failures(machine_name))} failed")


@pytest.mark.parametrize("vcpu_count", [1, 2, 4])
def test_churn_runs_and_keeps_its_invariants(boot: Boot, vcpu_count: int) -> None:
    guest = boot("churn", "working-set=2M", vcpu_count=vcpu_count)

    guest.machine.resume()
    for vcpu in range(vcpu_count):
        guest.wait_for(f"progress vcpu={vcpu} ", 2)
    guest.machine.pause()

    assert not guest.lines_with("FAIL")


def test_churn_every_kind_of_deliberate_fault_is_taken(boot: Boot) -> None:
    guest = boot("churn", "working-set=1M")

    guest.machine.resume()
    guest.wait_for("progress", 3)
    guest.machine.pause()

    last = dict(part.split("=") for part in guest.lines_with("progress")[-1].split()[2:])
    assert int(last["faults"]) > 0
    assert int(last["retags"]) > 0
    assert int(last["blocks"]) > 0


@pytest.mark.parametrize("mode", ["ldst", "stg", "fp"])
def test_speed_counts_its_iterations(boot: Boot, mode: str) -> None:
    lines = boot("speed", f"iterations=1000 mode={mode}").run_to_the_end()

    assert any(line.startswith("speed: iterations=1000 instructions=") for line in lines)


@pytest.mark.parametrize("mode", ["store", "pair"])
def test_retag_gives_each_granule_the_tag_and_the_data_of_a_round(boot: Boot, mode: str) -> None:
    guest = boot("retag", f"granules=64 mode={mode}")
    guest.machine.resume()
    guest.wait_for("retag: buffer=", 1)
    (line,) = guest.lines_with("retag: buffer=")
    gpa = Gpa(int(line.split()[1].removeprefix("buffer="), 16))
    deadline = time.monotonic() + 200
    while int.from_bytes(guest.machine.memory.read(gpa, 8), "little") < 20:
        assert time.monotonic() < deadline, "the guest does not come to its twentieth round"
        time.sleep(0.05)
    guest.machine.pause()

    words = np.frombuffer(guest.machine.memory.read(gpa, 64 * 16), "<u8").reshape(64, 2)
    tags = unpack(guest.machine.read_tags(gpa, guest.machine.description.page_size_bytes))[:64]

    assert line.endswith("granules=64")
    assert words[:, 0].min() > 15
    assert int(np.ptp(words[:, 0])) <= 1
    torn = (words[:, 0] != words[:, 1]) | (tags != words[:, 0] % 15 + 1)
    assert np.count_nonzero(torn) <= (1 if mode == "store" else 0)


def test_retag_knob_out_of_range_is_refused(boot: Boot) -> None:
    lines = boot("retag", "granules=65537").run_to_the_end()

    assert lines == ["retag: error: command line: cannot use granules=65537"]
