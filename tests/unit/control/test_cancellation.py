"""Work that a task follows, and what happens at each moment in which the task is cancelled."""

import asyncio

import pytest

from tagalong.control.cancellation import follow_or_cancel

TIMEOUT_S = 60.0


class Work:
    """Begins and ends when it is told to; `log` is what was asked of it."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.may_begin = asyncio.Event()
        self.may_end = asyncio.Event()

    async def begin(self) -> None:
        await self.may_begin.wait()
        self.log.append("begun")

    async def follow(self) -> str:
        self.log.append("followed")
        await self.may_end.wait()
        return "done"

    async def cancel(self) -> str:
        self.log.append("cancelled")
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        async with asyncio.timeout(TIMEOUT_S):
            await asyncio.sleep(0)
        return "given up"

    def start(self) -> "asyncio.Task[str]":
        return asyncio.create_task(follow_or_cancel(self.begin(), self.follow, self.cancel))


def test_work_that_nobody_cancels_is_followed_to_its_end() -> None:
    async def run() -> tuple[str, list[str]]:
        work = Work()
        work.may_begin.set()
        work.may_end.set()
        return await work.start(), work.log

    assert asyncio.run(run()) == ("done", ["begun", "followed"])


def test_work_cancelled_before_it_has_begun_is_cancelled_when_it_has() -> None:
    async def run() -> tuple[str, list[str]]:
        work = Work()
        task = work.start()
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(0.01)
        assert not task.done()
        work.may_begin.set()
        return await task, work.log

    assert asyncio.run(run()) == ("given up", ["begun", "cancelled"])


def test_work_cancelled_meanwhile_is_cancelled() -> None:
    async def run() -> tuple[str, list[str]]:
        work = Work()
        work.may_begin.set()
        task = work.start()
        while "followed" not in work.log:
            await asyncio.sleep(0)
        task.cancel()
        return await task, work.log

    assert asyncio.run(run()) == ("given up", ["begun", "followed", "cancelled"])


def test_work_that_is_refused_raises_and_is_neither_followed_nor_cancelled() -> None:
    async def refuse() -> None:
        raise KeyError("refused")

    async def run(work: Work) -> None:
        await follow_or_cancel(refuse(), work.follow, work.cancel)

    work = Work()
    with pytest.raises(KeyError, match="refused"):
        asyncio.run(run(work))

    assert work.log == []
