"""What a signal does to a command's work."""

import asyncio
import os
import signal

import pytest

from tagalong.control.interrupt import run_interruptible
from tagalong.control.interrupted import Interrupted
from tagalong.errors import MigrationCancelledError, UsageError


async def send_and_wait(number: int) -> None:
    os.kill(os.getpid(), number)
    await asyncio.sleep(10)


def test_run_interruptible_undisturbed_returns_the_result() -> None:
    async def work() -> int:
        return 7

    assert run_interruptible(work) == 7


def test_run_interruptible_error_without_signal_passes() -> None:
    async def work() -> None:
        raise UsageError("no")

    with pytest.raises(UsageError, match=r"^no$"):
        run_interruptible(work)


@pytest.mark.parametrize(
    ("number", "name", "status"),
    [
        (signal.SIGINT, "SIGINT", 130),
        (signal.SIGTERM, "SIGTERM", 143),
        (signal.SIGHUP, "SIGHUP", 129),
    ],
)
def test_run_interruptible_signal_raises_interrupted(number: int, name: str, status: int) -> None:
    with pytest.raises(Interrupted, match=rf"^interrupted \({name}\)$") as caught:
        run_interruptible(lambda: send_and_wait(number))

    assert caught.value.exit_code == status


def test_run_interruptible_work_tidies_up_undisturbed_by_more_signals() -> None:
    steps: list[str] = []

    async def work() -> None:
        try:
            await send_and_wait(signal.SIGINT)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.sleep(0.01)
            steps.append("tidied")

    with pytest.raises(Interrupted, match="SIGINT"):
        run_interruptible(work)

    assert steps == ["tidied"]


def test_run_interruptible_error_after_signal_tells_how_it_ended() -> None:
    async def work() -> None:
        try:
            await send_and_wait(signal.SIGINT)
        except asyncio.CancelledError:
            raise MigrationCancelledError("migration cancelled") from None

    with pytest.raises(Interrupted, match=r"^interrupted \(SIGINT\): migration cancelled$"):
        run_interruptible(work)


def test_run_interruptible_result_after_signal_counts() -> None:
    async def work() -> str:
        try:
            await send_and_wait(signal.SIGINT)
        except asyncio.CancelledError:
            return "too late"
        return "never"

    assert run_interruptible(work) == "too late"
