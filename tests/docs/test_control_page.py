"""The pages on the control socket name every command and every run state that there is."""

import asyncio
from pathlib import Path

from tagalong.control.client import connect
from tagalong.vmm.states import VmState
from tests.support.page_commands import ROOT
from tests.support.served_thread import served_in_thread

TEXT = "".join((ROOT / "docs" / "guide" / f"{name}.md").read_text() for name in
               ("control", "snapshot"))  # fmt: skip


def test_every_command_of_the_control_socket_is_in_the_guide(tmp_path: Path) -> None:
    async def names(path: Path) -> list[str]:
        async with connect(path) as client:
            answer = await client.execute("query-commands")
            assert isinstance(answer, list)
            return [each["name"] for each in answer]

    with served_in_thread(tmp_path / "vm.sock") as vm:
        found = asyncio.run(names(vm.served.path))

    assert len(found) > 20
    assert [name for name in found if f"`{name}`" not in TEXT] == []


def test_every_run_state_is_in_the_guide() -> None:
    assert [state.value for state in VmState if f"`{state.value}`" not in TEXT] == []
