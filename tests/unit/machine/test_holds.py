"""Holds on vCPUs: each is counted, and none is forgotten."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tagalong.errors import RunStateError
from tagalong.machine.holds import VcpuHolds


class Scene:
    """Holds on vCPUs that stop at once; `stops` counts how often they were stopped."""

    def __init__(self) -> None:
        self.condition = threading.Condition()
        self.stops = 0
        self.error: BaseException | None = None
        self.holds = VcpuHolds(self.condition, self._stop)

    def take_condition(self) -> bool:
        with self.condition:
            return True

    def _stop(self) -> None:
        assert self.holds.is_held
        self.stops += 1
        if self.error is not None:
            raise self.error


def test_held_blocks_within_each_other_hold_until_the_last_ends() -> None:
    scene = Scene()

    with scene.holds.held():
        with scene.holds.held():
            pass
        assert scene.holds.is_held

    assert not scene.holds.is_held
    assert scene.stops == 2


def test_release_wakes_a_thread_that_waits_to_run() -> None:
    scene = Scene()
    ran = threading.Event()

    def run() -> None:
        with scene.condition:
            scene.condition.wait_for(lambda: not scene.holds.is_held)
        ran.set()

    with scene.condition:
        scene.holds.hold()
    thread = threading.Thread(target=run)
    thread.start()
    assert not ran.wait(0.05)
    with scene.condition:
        scene.holds.release()

    assert ran.wait(60)
    thread.join()


def test_held_block_that_raises_releases() -> None:
    scene = Scene()

    with pytest.raises(KeyError), scene.holds.held():
        raise KeyError

    assert not scene.holds.is_held


def test_hold_that_is_interrupted_does_not_count() -> None:
    scene = Scene()
    scene.error = KeyboardInterrupt()

    with pytest.raises(KeyboardInterrupt), scene.holds.held():
        pass
    assert not scene.holds.is_held
    with pytest.raises(KeyboardInterrupt), scene.holds.held_unless(lambda: False):
        pass
    assert not scene.holds.is_held


@pytest.mark.parametrize("runs", [False, True])
def test_held_unless_the_machine_runs_says_whether_the_vcpus_stop(runs: bool) -> None:
    scene = Scene()

    with scene.holds.held_unless(lambda: runs) as is_held:
        held_inside = scene.holds.is_held
        with ThreadPoolExecutor(1) as other:  # the block does not keep the machine to itself
            assert other.submit(scene.take_condition).result(10)

    assert (is_held, held_inside) == (not runs, not runs)
    assert not scene.holds.is_held


def test_held_unless_of_a_closed_machine_holds_nothing() -> None:
    scene = Scene()

    def runs() -> bool:
        raise RunStateError("the machine is closed")

    with pytest.raises(RunStateError), scene.holds.held_unless(runs):
        pass

    assert (scene.stops, scene.holds.is_held) == (0, False)
