"""Saving a VM through its control socket: results, and what is said when it fails."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from tagalong.control.saving import save_vm
from tagalong.errors import HostError, RemoteError
from tagalong.qapi.reports import SaveResult
from tagalong.qapi.saving import SaveInfo, SaveRequest
from tagalong.vmm.vm import Ending, ShutdownReason
from tests.support.results import save_result
from tests.support.served_vm import ServedVm, served_vm

TIMEOUT_S = 60.0
REQUEST = SaveRequest(Path("/tmp/vm.core"), live=True)


def ignore(_: SaveInfo) -> None:
    pass


def play(tmp_path: Path, prepare: Callable[[ServedVm], None]) -> SaveResult:
    async def run() -> SaveResult:
        async with asyncio.timeout(TIMEOUT_S), served_vm(tmp_path / "vm.sock") as served:
            served.vm.cont()
            prepare(served)
            return await save_vm(served.path, REQUEST, ignore)

    return asyncio.run(run())


def test_save_vm_returns_the_report_and_passes_the_request(tmp_path: Path) -> None:
    requests: list[SaveRequest] = []

    def prepare(served: ServedVm) -> None:
        served.storing.requests = requests
        served.storing.finish.set()

    assert play(tmp_path, prepare) == save_result()
    assert requests == [REQUEST]


def test_save_vm_that_fails_says_that_the_vm_continues(tmp_path: Path) -> None:
    def prepare(served: ServedVm) -> None:
        served.storing.error = HostError("the disk is full")
        served.storing.finish.set()

    with pytest.raises(RemoteError, match=r"^the disk is full") as caught:
        play(tmp_path, prepare)

    assert caught.value.exit_code == HostError.exit_code
    assert caught.value.__notes__ == ["The VM continues as before. Nothing new is at /tmp/vm.core."]


def test_save_vm_whose_process_ends_says_so(tmp_path: Path) -> None:
    async def run() -> None:
        async with asyncio.timeout(TIMEOUT_S):
            serving = served_vm(tmp_path / "vm.sock")
            served = await serving.__aenter__()
            served.vm.cont()
            saving = asyncio.create_task(save_vm(served.path, REQUEST, ignore))
            while not served.storing.requests:
                await asyncio.sleep(0.001)
            served.vm.order_end(Ending(ShutdownReason.SIGNAL, 143))
            await serving.__aexit__(None, None, None)
            await saving

    with pytest.raises(RemoteError, match=r"^cancelled on request") as caught:
        asyncio.run(run())

    assert caught.value.__notes__ == [
        "The VM has ended (host-signal). Nothing new is at /tmp/vm.core."
    ]
