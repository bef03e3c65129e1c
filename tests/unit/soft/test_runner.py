"""Who may touch the interpreter's state: the runner, or others while it is stopped."""

import threading
from collections.abc import Callable, Iterator

import pytest

from tagalong._native import InterpreterExit
from tagalong.soft.native import StopReason
from tagalong.soft.runner import SoftRunner

TIMEOUT_S = 50


class Scene:
    """A runner whose interpreter runs until it is interrupted, or `exits` on its own."""

    def __init__(self) -> None:
        self.condition = threading.Condition()
        self.exits = False
        self.runs = 0
        self.running = threading.Event()
        self.interrupted = threading.Event()
        self.failed = threading.Event()
        self.errors: list[Exception] = []
        self.handle: Callable[[], None] = lambda: None
        self.wakeup = threading.Event()
        self.runner = SoftRunner(
            self.condition, self, lambda _: self.handle(), self._fail, self.wakeup
        )

    def run(self, budget: int, leave: InterpreterExit) -> None:
        del budget
        self.runs += 1
        self.running.set()
        if not self.exits:
            assert self.interrupted.wait(TIMEOUT_S)
        is_interrupted = self.interrupted.is_set()
        leave.reason = StopReason.INTERRUPTED if is_interrupted else StopReason.MMIO
        self.interrupted.clear()
        self.running.clear()

    def interrupt(self) -> None:
        self.interrupted.set()

    def start(self) -> None:
        with self.condition:
            self.runner.start()

    def stop(self) -> None:
        with self.condition:
            self.runner.stop()

    def _fail(self, error: Exception) -> None:
        self.errors.append(error)
        self.failed.set()


@pytest.fixture
def scene() -> Iterator[Scene]:
    others = set(threading.enumerate())  # an earlier test may have left a machine that runs
    made = Scene()
    yield made
    made.runner.close()
    assert "vcpus" not in {thread.name for thread in set(threading.enumerate()) - others}


def test_runner_that_was_stopped_does_not_run_until_it_is_started(scene: Scene) -> None:
    scene.start()
    assert scene.running.wait(TIMEOUT_S)
    scene.stop()
    with scene.condition:
        scene.runner.wait_stopped()
        before = scene.runs
        scene.condition.notify_all()

    assert not scene.running.wait(0.05)
    assert scene.runs == before
    scene.start()
    assert scene.running.wait(TIMEOUT_S)


def test_held_stops_the_runner_which_runs_again_afterwards(scene: Scene) -> None:
    scene.start()
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


def test_wait_stopped_waits_for_the_exit_that_is_being_handled(scene: Scene) -> None:
    entered, finish, handled = threading.Event(), threading.Event(), threading.Event()

    def handle() -> None:
        entered.set()
        assert finish.wait(TIMEOUT_S)
        handled.set()

    scene.handle, scene.exits = handle, True
    scene.start()
    assert entered.wait(TIMEOUT_S)
    threading.Timer(0.05, finish.set).start()

    with scene.condition:
        scene.runner.stop()
        scene.runner.wait_stopped()

    assert handled.is_set()


def test_wait_stopped_in_the_runner_s_own_thread_returns_at_once(scene: Scene) -> None:
    done = threading.Event()

    def handle() -> None:
        with scene.condition:
            scene.runner.stop()
            scene.runner.wait_stopped()
        done.set()

    scene.handle, scene.exits = handle, True
    scene.start()

    assert done.wait(TIMEOUT_S)


def test_idle_of_a_runner_that_must_stop_ends_at_once(scene: Scene) -> None:
    idle = threading.Thread(target=scene.runner.idle, args=(None,))

    idle.start()  # never started, so it must not run
    idle.join(TIMEOUT_S)

    assert not idle.is_alive()


def test_idle_of_a_runner_that_may_run_lasts_until_it_must_stop(scene: Scene) -> None:
    lasted, ended = [], threading.Event()

    def handle() -> None:
        scene.runner.idle(None)
        ended.set()

    scene.handle, scene.exits = handle, True
    scene.start()
    lasted.append(not ended.wait(0.1))
    with scene.runner.holds.held():
        lasted.append(ended.is_set())
    scene.stop()

    assert lasted == [True, True]


def test_idle_ends_by_itself_after_its_time(scene: Scene) -> None:
    ended = threading.Event()

    def handle() -> None:
        scene.runner.idle(0.001)  # nothing wakes it meanwhile
        ended.set()

    scene.handle, scene.exits = handle, True
    scene.start()

    assert ended.wait(TIMEOUT_S)


def test_idle_ends_when_it_is_woken_also_if_that_was_before(scene: Scene) -> None:
    woken = threading.Event()

    def handle() -> None:
        scene.runner.idle(None)
        woken.set()

    scene.handle, scene.exits = handle, True
    scene.wakeup.set()
    scene.start()
    first = woken.wait(TIMEOUT_S)
    woken.clear()
    scene.wakeup.set()
    second = woken.wait(TIMEOUT_S)
    scene.stop()
    scene.wakeup.set()  # it may have begun to idle again

    assert (first, second) == (True, True)


def test_error_of_a_handler_is_told_and_leaves_the_runner_stopped(scene: Scene) -> None:
    def handle() -> None:
        raise KeyError("a bug")

    scene.handle, scene.exits = handle, True
    scene.start()

    assert scene.failed.wait(TIMEOUT_S)
    with scene.runner.holds.held():
        assert [repr(error) for error in scene.errors] == ["KeyError('a bug')"]
        assert scene.runs == 1


def test_close_while_running_ends_the_thread_and_may_be_repeated(scene: Scene) -> None:
    scene.start()
    assert scene.running.wait(TIMEOUT_S)

    scene.runner.close()
    scene.runner.close()

    assert not scene.running.is_set()
    assert scene.runs == 1
