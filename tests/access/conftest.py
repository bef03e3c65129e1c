"""The hosts that every test of the strategies runs on: the same tests on each.

Inside the lab that is the real one; elsewhere the embedded machine's.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.access_bench import BENCHES, Bench, native_bench

INSIDE_LAB = "TAGALONG_INSIDE_LAB" in os.environ


def hosts() -> list[str]:
    return ["native"] if INSIDE_LAB else [name for name in BENCHES if name != "native"]


# Asymmetric mode is what a CPU takes if the thread allows both and the CPU prefers it.
_PREFERENCES = [*Path("/sys/devices/system/cpu").glob("cpu*/mte_tcf_preferred")]


@pytest.fixture(scope="session", autouse=True)
def asymmetric_preferred() -> Iterator[None]:
    """Inside the lab, let all CPUs prefer asymmetric checks."""
    before = [file.read_text() for file in _PREFERENCES] if INSIDE_LAB else []
    for file, _ in zip(_PREFERENCES, before, strict=False):
        file.write_text("asymm")
    yield
    for file, text in zip(_PREFERENCES, before, strict=False):
        file.write_text(text)


@pytest.fixture(params=hosts(), scope="module")
def shared(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """Return a paused machine and its host, for all tests of a module."""
    made = BENCHES[request.param]()
    yield made
    made.close()


@pytest.fixture
def bench(shared: Bench) -> Iterator[Bench]:
    """Return the module's machine and host; the thread's checking mode is put back.

    Where RAM has but one mapping, each test has its own: there is no way back from PROT_MTE.
    """
    made = shared if shared.has_two_views else native_bench()
    ctrl = shared.host.get_tagged_addr_ctrl()
    yield made
    made.host.set_tagged_addr_ctrl(ctrl)
    if made is not shared:
        made.close()


@pytest.fixture(params=hosts())
def fresh(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """Return a machine and a host of the test's own, which it may break."""
    made = BENCHES[request.param]()
    ctrl = made.host.get_tagged_addr_ctrl()
    yield made
    made.host.set_tagged_addr_ctrl(ctrl)
    made.close()
