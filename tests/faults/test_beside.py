"""Tags beside a VMM's migration that goes wrong at any stage, with real processes and a fake VMM.

The table is that of tests/support/beside_faults.py, which `make beside` plays with real QEMUs in
the lab. Each kind of fault strikes at one stage here, and at all of them with TAGALONG_LONG.
"""

import asyncio
import os
from pathlib import Path

import pytest

from tagalong.qapi.migration import Switchover
from tests.support.beside_faults import (
    TABLE,
    Case,
    Stage,
    Strike,
    run_case,
    run_with_another_destination,
)
from tests.support.beside_scene import FAKE_GUEST, Scene

SHORT = (
    Case(Stage.ROUND, Strike.CUT_TAGS),
    Case(Stage.RUNNING, Strike.CUT_VMM),
    Case(Stage.PREPARE, Strike.KILL_SOURCE),
    Case(Stage.RUNNING, Strike.KILL_DESTINATION),
    Case(Stage.READY, Strike.KILL_VMM),
    Case(Stage.LAST_PAGES, Strike.CANCEL),
    Case(Stage.PREPARE, Strike.CUT_TAGS, Switchover.OVERLAP),
    Case(Stage.RUNNING, Strike.CUT_TAGS, Switchover.OVERLAP),
)
CASES = TABLE if "TAGALONG_LONG" in os.environ else SHORT


@pytest.mark.timeout(1200)
def test_guest_is_where_the_table_says_after_every_fault(tmp_path: Path) -> None:
    async def play() -> None:
        scene = Scene(tmp_path, FAKE_GUEST)
        try:
            await scene.require_alive(scene.here)
            for case in CASES:
                try:
                    await run_case(scene, case)
                except AssertionError as error:
                    error.add_note(f"{case.name}\n{scene.last_words}")
                    raise
            await run_with_another_destination(scene)
        finally:
            scene.close()

    asyncio.run(play())
