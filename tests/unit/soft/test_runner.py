"""Who may touch the interpreter's state: the runner, or others while it stands."""

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tagalong._native import InterpreterExit
from tagalong.soft.runner import Runner

TIMEOUT_S = 50


class Scene:
    """A runner whose interpreter runs until it is interrupted, or `exits` on its own."""

    def __init__(self) -> None:
        self.condition = threading.Condition()
        self.is_wanted = True
        self.exits = False
        self.runs = 0
        self.running = threading.Event()
        self.interrupted = threading.Event()
        self.failed = threading.Event()
        self.errors: list[Exception] = []
        self.handle: Callable[[], None] = lambda: None
        self.runner = Runner(
            self.condition, self, lambda: self.is_wanted, lambda _: self.handle(), self._fail
        )

    def run(self, budget: int, leave: InterpreterExit) -> None:
        del budget, leave
        self.runs += 1
        self.running.set()
        if not self.exits:
            assert self.interrupted.wait(TIMEOUT_S)
        self.interrupted.clear()
        self.running.clear()

    def interrupt(self) -> None:
        self.interrupted.set()

    def go(self) -> None:
        with self.condition:
            self.runner.go()

    def _fail(self, error: Exception) -> None:
        self.errors.append(error)
        self.failed.set()


@pytest.fixture
def scene() -> Iterator[Scene]:
    made = Scene()
    yield made
    made.runner.close()
    assert "vcpus" not in {thread.name for thread in threading.enumerate()}


def test_runner_that_nobody_wants_does_not_run(scene: Scene) -> None:
    scene.is_wanted = False
    scene.go()

    assert not scene.running.wait(0.05)
    scene.is_wanted = True
    scene.go()
    assert scene.running.wait(TIMEOUT_S)


def test_held_makes_the_runner_stand_and_go_on_afterwards(scene: Scene) -> None:
    scene.go()
    assert scene.running.wait(TIMEOUT_S)

    with scene.runner.holds.held():
        assert not scene.running.is_set()
        with scene.runner.holds.held():
            pass
        before = scene.runs
        scene.condition.notify_all()
        scene.condition.wait(0.05)
        assert scene.runs == before

    assert scene.running.wait(TIMEOUT_S)
    assert scene.runs == before + 1


def test_stand_waits_for_the_exit_that_is_being_handled(scene: Scene) -> None:
    entered, finish, handled = threading.Event(), threading.Event(), threading.Event()

    def handle() -> None:
        entered.set()
        assert finish.wait(TIMEOUT_S)
        handled.set()

    scene.handle, scene.exits = handle, True
    scene.go()
    assert entered.wait(TIMEOUT_S)
    threading.Timer(0.05, finish.set).start()

    with scene.condition:
        scene.is_wanted = False
        scene.runner.stand()

    assert handled.is_set()


def test_stand_in_the_runner_s_own_thread_returns_at_once(scene: Scene) -> None:
    done = threading.Event()

    def handle() -> None:
        with scene.condition:
            scene.is_wanted = False
            scene.runner.stand()
        done.set()

    scene.handle, scene.exits = handle, True
    scene.go()

    assert done.wait(TIMEOUT_S)


def test_idle_ends_at_once_when_the_runner_must_stand(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tagalong.soft.runner._IDLE_WAIT_S", 60.0)
    began = time.monotonic()

    scene.is_wanted = False
    scene.runner.idle()
    with scene.runner.holds.held():
        scene.is_wanted = True
        scene.runner.idle()

    assert time.monotonic() - began < 30


def test_idle_of_a_runner_that_may_run_lasts_until_it_must_stand(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tagalong.soft.runner._IDLE_WAIT_S", 60.0)
    idle = threading.Thread(target=scene.runner.idle)
    idle.start()

    idle.join(0.1)
    assert idle.is_alive()
    with scene.condition:
        scene.is_wanted = False
        scene.condition.notify_all()
    idle.join(TIMEOUT_S)
    assert not idle.is_alive()


def test_idle_with_nothing_to_wait_for_ends_by_itself(scene: Scene) -> None:
    began = time.monotonic()

    scene.runner.idle()

    assert time.monotonic() - began < TIMEOUT_S


def test_error_of_a_handler_is_told_and_leaves_the_runner_standing(scene: Scene) -> None:
    def handle() -> None:
        raise KeyError("a bug")

    scene.handle, scene.exits = handle, True
    scene.go()

    assert scene.failed.wait(TIMEOUT_S)
    with scene.runner.holds.held():
        assert [repr(error) for error in scene.errors] == ["KeyError('a bug')"]
        assert scene.runs == 1


def test_close_while_running_ends_the_thread_and_may_be_repeated(scene: Scene) -> None:
    scene.go()
    assert scene.running.wait(TIMEOUT_S)

    scene.runner.close()
    scene.runner.close()

    assert not scene.running.is_set()
    assert scene.runs == 1
