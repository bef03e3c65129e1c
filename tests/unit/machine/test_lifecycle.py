"""The run states of a machine, with vCPUs that start and stop at once."""

import threading
from collections.abc import Callable

import pytest

from tagalong.errors import AddressError, HostError, MachineError, RunStateError
from tagalong.machine import MachineDescription, RegionDescription, RunState
from tagalong.machine.holds import VcpuHolds
from tagalong.machine.lifecycle import MachineLifecycle
from tagalong.memory import Gpa

DESCRIPTION = MachineDescription(4096, 2, 3, (RegionDescription(Gpa(0x4000_0000), 4 << 20),))


class Scene(MachineLifecycle):
    """A machine whose runner and clock note what they are asked for, in `calls`.

    `last_exit`: what a vCPU does between being stopped and having stopped.
    """

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.condition = threading.Condition()
        self.holds = VcpuHolds(self.condition, self.wait_stopped)
        self.is_stopped = True
        self.end_with: tuple[RunState, Exception | None] | None = None
        self.clock = Clock(self.calls)
        self.backends = NotedBackends(self.calls)
        super().__init__(self.condition, Runner(self), self.backends, self.clock)

    @property
    def description(self) -> MachineDescription:
        return DESCRIPTION

    def wait_stopped(self) -> None:
        self.calls.append("wait_stopped")
        if self.end_with is not None:
            self._end(*self.end_with)
            self.end_with = None
        self.is_stopped = True

    def end(self, state: RunState, failure: Exception | None = None) -> None:
        self._end(state, failure)

    def fail(self, error: Exception) -> None:
        self._fail(error)

    def own_state(self) -> None:
        with self._while_paused():
            self.calls.append("owned")

    def _reset_parts(self) -> None:
        self.calls.append("reset")

    def _release(self) -> None:
        self.calls.append("release")


class Runner:
    """Implements VcpuRunner for a Scene."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self.holds = scene.holds

    @property
    def is_stopped(self) -> bool:
        return self._scene.is_stopped

    def start(self) -> None:
        self._scene.calls.append("start")
        self._scene.is_stopped = False

    def stop(self) -> None:
        self._scene.calls.append("stop")

    def wait_stopped(self) -> None:
        self._scene.wait_stopped()

    def thread_of(self, vcpu: int) -> int | None:
        return 100 + vcpu

    def close(self) -> None:
        self._scene.calls.append("close")
        self._scene.is_stopped = True


class Clock:
    """Implements GuestClock."""

    def __init__(self, calls: list[str]) -> None:
        self._calls = calls

    def start(self) -> None:
        self._calls.append("clock on")

    def stop(self) -> None:
        self._calls.append("clock off")


class NotedBackends:
    """Implements Backends; `obstacle` is raised by activate and inactivate."""

    def __init__(self, calls: list[str]) -> None:
        self._calls = calls
        self.obstacle: Exception | None = None

    def pause(self) -> None:
        self._calls.append("backends off")

    def resume(self, fail: Callable[[Exception], None]) -> None:
        del fail
        self._calls.append("backends on")

    def activate(self) -> None:
        self._calls.append("activate")
        if self.obstacle is not None:
            raise self.obstacle

    def inactivate(self) -> None:
        self._calls.append("inactivate")
        if self.obstacle is not None:
            raise self.obstacle

    def close(self) -> None:
        self._calls.append("backends close")


def test_resume_and_pause_start_and_stop_vcpus_and_time_in_order() -> None:
    scene = Scene()

    scene.resume()
    running = scene.run_state
    scene.pause()

    assert (running, scene.run_state) == (RunState.RUNNING, RunState.PAUSED)
    assert scene.calls == [
        "activate", "wait_stopped", "backends on", "clock on", "start",
        "stop", "wait_stopped", "clock off", "backends off",
    ]  # fmt: skip


def test_resume_of_a_running_machine_does_not_start_the_clock_again() -> None:
    scene = Scene()
    scene.resume()
    scene.calls.clear()

    scene.resume()

    assert scene.calls == ["activate", "start"]


def test_resume_that_cannot_activate_its_backends_changes_nothing() -> None:
    scene = Scene()
    scene.backends.obstacle = HostError("image d.img of disk 'disk0' is in use")

    with pytest.raises(HostError, match="is in use"):
        scene.resume()

    assert (scene.run_state, scene.calls) == (RunState.PAUSED, ["activate"])


def test_backends_of_a_held_machine_work_when_the_hold_ends() -> None:
    scene = Scene()

    with scene.hold_if_paused() as is_held:
        scene.resume()
        within = "backends on" in scene.calls
    after = "backends on" in scene.calls

    assert (is_held, within, after) == (True, False, True)


def test_backends_of_a_held_machine_that_is_paused_again_stay_off() -> None:
    scene = Scene()

    with scene.hold_if_paused():
        scene.resume()
        scene.pause()

    assert "backends on" not in scene.calls


def test_inactivate_is_refused_while_the_machine_runs() -> None:
    scene = Scene()
    scene.resume()

    with pytest.raises(RunStateError, match="pause it first"):
        scene.inactivate()

    scene.pause()
    scene.inactivate()
    assert scene.calls[-1] == "inactivate"


def test_guest_that_powers_off_while_it_is_paused_is_shut_down() -> None:
    scene = Scene()
    scene.resume()
    scene.end_with = (RunState.SHUTDOWN, None)

    scene.pause()

    assert scene.run_state is RunState.SHUTDOWN
    with pytest.raises(RunStateError) as caught:
        scene.resume()
    assert str(caught.value) == (
        "cannot resume the machine: its state is 'shutdown', which is final"
    )


def test_first_end_of_a_machine_counts() -> None:
    scene = Scene()
    scene.resume()
    first, second = MachineError("a device failed"), MachineError("another failed")

    scene.end(RunState.FAILED, first)
    scene.end(RunState.FAILED, second)
    scene.end(RunState.SHUTDOWN)

    assert (scene.run_state, scene.failure) == (RunState.FAILED, first)


def test_error_of_a_vcpu_thread_is_the_host_s_or_a_device_s() -> None:
    host, device = Scene(), Scene()

    host.fail(HostError("KVM_RUN failed"))
    device.fail(AddressError("gpa 0x10 is not in one region of guest RAM"))

    assert (host.run_state, str(host.failure)) == (RunState.FAILED, "KVM_RUN failed")
    assert (device.run_state, str(device.failure)) == (
        RunState.FAILED,
        "a device of the machine failed: "
        "AddressError('gpa 0x10 is not in one region of guest RAM')",
    )


def test_pause_after_the_end_leaves_the_state() -> None:
    for state in (RunState.SHUTDOWN, RunState.FAILED):
        scene = Scene()
        scene.resume()
        scene.end(state)

        scene.pause()

        assert scene.run_state is state


def test_guest_that_asks_for_a_reset_waits_for_it() -> None:
    scene = Scene()
    scene.resume()
    scene.end(RunState.RESET)
    scene.end(RunState.SHUTDOWN)  # another vCPU's, too late

    with pytest.raises(RunStateError) as caught:
        scene.resume()
    asked = scene.run_state
    scene.calls.clear()
    scene.reset()

    assert str(caught.value) == (
        "cannot resume the machine: its guest asked for a reset, which comes first"
    )
    assert (asked, scene.run_state) == (RunState.RESET, RunState.PAUSED)
    assert scene.calls.index("backends off") < scene.calls.index("reset")
    scene.resume()
    assert scene.run_state is RunState.RUNNING


def test_reset_of_a_paused_machine_leaves_it_paused() -> None:
    scene = Scene()

    scene.reset()

    assert (scene.run_state, scene.calls.count("reset")) == (RunState.PAUSED, 1)


def test_reset_is_refused_while_the_machine_runs_and_after_its_end() -> None:
    running, over, closed = Scene(), Scene(), Scene()
    running.resume()
    over.resume()
    over.end(RunState.SHUTDOWN)
    closed.close()
    messages = []

    for scene in (running, over, closed):
        with pytest.raises(RunStateError) as caught:
            scene.reset()
        messages.append(str(caught.value))

    assert messages == [
        "the machine is running: pause it first",
        "cannot reset the machine: its state is 'shutdown', which is final",
        "the machine is closed",
    ]
    assert all("reset" not in scene.calls for scene in (running, over, closed))


def test_failure_counts_also_after_the_guest_asked_for_a_reset() -> None:
    scene = Scene()
    scene.resume()
    scene.end(RunState.RESET)

    scene.fail(HostError("the disk is gone"))

    assert (scene.run_state, str(scene.failure)) == (RunState.FAILED, "the disk is gone")


def test_wait_lasts_until_the_vcpus_are_stopped() -> None:
    scene = Scene()
    scene.resume()
    scene.end(RunState.SHUTDOWN)  # said by a vCPU that has not stopped yet
    states: list[RunState] = []
    waiter = threading.Thread(target=lambda: states.append(scene.wait()))

    waiter.start()
    waiter.join(0.1)
    before = list(states)
    with scene.condition:
        scene.is_stopped = True
        scene.condition.notify_all()
    waiter.join(60)

    assert (before, states) == ([], [RunState.SHUTDOWN])


def test_wait_with_a_timeout_returns_what_the_machine_does() -> None:
    scene = Scene()
    scene.resume()

    assert scene.wait(0.01) is RunState.RUNNING


def test_state_of_a_machine_is_owned_only_while_it_is_paused() -> None:
    scene = Scene()

    scene.own_state()
    scene.resume()
    with pytest.raises(RunStateError, match="the machine is running: pause it first"):
        scene.own_state()

    assert scene.calls.count("owned") == 1


def test_close_ends_threads_before_it_releases_and_may_be_repeated() -> None:
    scene = Scene()
    scene.resume()
    scene.calls.clear()

    scene.close()
    scene.close()

    assert scene.calls == ["close", "backends close", "release"]
    assert scene.run_state is RunState.PAUSED
    for forbidden in (scene.resume, scene.own_state, lambda: scene.throttle(5)):
        with pytest.raises(RunStateError, match="the machine is closed"):
            forbidden()


def test_with_statement_closes_and_repr_says_what_it_is() -> None:
    with Scene() as scene:
        assert repr(scene) == "<Scene paused: 2 vCPUs, 4 MiB of RAM>"

    assert repr(scene) == "<Scene closed: 2 vCPUs, 4 MiB of RAM>"
    assert scene.calls == ["close", "backends close", "release"]


def test_threads_of_vcpus_are_the_runner_s_until_it_is_closed() -> None:
    scene = Scene()

    assert scene.vcpu_threads() == (100, 101)

    scene.close()
    with pytest.raises(RunStateError, match="the machine is closed"):
        scene.vcpu_threads()
