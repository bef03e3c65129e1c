"""passt in the lab, as root, unmodified: it shuts itself in as on any host."""

import os
import shutil

import pytest

from tagalong.devices.virtio.passt import start_passt
from tests.support.arp import who_has
from tests.support.bridge import outside, why_not
from tests.support.passt_process import NOBODY, passt_processes

pytestmark = pytest.mark.lab

MAC = bytes.fromhex("525400abcd01")


def test_passt_answers_from_a_sandbox_as_nobody() -> None:
    if reason := why_not() or ("" if shutil.which("passt") else "missing passt"):
        pytest.skip(reason)

    with outside() as network:
        frames = start_passt("net0")
        try:
            answer = who_has(frames, MAC, network.address, network.gateway)
            (process,) = passt_processes(os.getpid())
        finally:
            frames.close()

    assert answer == network.gateway
    assert (process.user, process.capabilities, process.sees) == (NOBODY, 0, ())
    assert process.apart >= {"user", "mnt", "ipc", "uts"}
    assert passt_processes(os.getpid()) == []
