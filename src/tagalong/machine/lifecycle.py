"""Runs, pauses and ends a machine: the part of `Machine` that every kind of it shares.

What differs is how vCPUs are run: an interpreter in one thread, KVM in a thread per vCPU. That is
a `VcpuRunner`. One condition guards all of this: a thread that has it and finds the vCPUs
stopped owns their state.
"""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from types import TracebackType
from typing import Protocol, Self

from tagalong.errors import HostError, MachineError, RunStateError
from tagalong.machine.holds import VcpuHolds
from tagalong.machine.state import MachineDescription, RunState
from tagalong.machine.tag_ranges import is_whole_pages
from tagalong.machine.throttle import Throttle


class VcpuRunner(Protocol):
    """Runs the vCPUs of one machine; all but `close` is called with the condition held.

    They run after `start` and until `stop`, while `holds` has no hold. Stopped, a vCPU is between
    two instructions and has no exit left to handle.
    """

    holds: VcpuHolds

    @property
    def is_stopped(self) -> bool:
        """Return whether no vCPU runs or has an exit left to handle."""
        ...

    def start(self) -> None:
        """Let the vCPUs run."""
        ...

    def stop(self) -> None:
        """Make the vCPUs stop soon; from any thread, a vCPU's own too."""
        ...

    def wait_stopped(self) -> None:
        """Make the vCPUs stop and return when they have; in a vCPU's own thread, do nothing.

        They run again if they may and the caller gives up the condition.
        """
        ...

    def thread_of(self, vcpu: int) -> int | None:
        """Return the host's id of the thread that runs a vCPU, None before the first start."""
        ...

    def close(self) -> None:
        """Stop for ever and end all threads, without the condition. Safe to call twice."""
        ...


class GuestClock(Protocol):
    """The guest's time, which must not pass while the machine is paused."""

    def stop(self) -> None:
        """Stop the time, now that all vCPUs are stopped. Does nothing if it is stopped."""
        ...

    def start(self) -> None:
        """Continue from where the time stopped. Does nothing if it runs."""
        ...


class Backends(Protocol):
    """What the devices of a machine have of the host, and the threads that work for them.

    They begin paused and inactive. `resume` is called with the condition held, all others without:
    a thread that has work to finish may need it.
    """

    def pause(self) -> None:
        """Finish what is under way, and store nothing to guest RAM until `resume`."""
        ...

    def resume(self, fail: Callable[[Exception], None]) -> None:
        """Work; `fail` gets an error that ended a thread."""
        ...

    def activate(self) -> None:
        """Take what only one process may hold. Raises HostError; nothing has changed then."""
        ...

    def inactivate(self) -> None:
        """Bring all data to the disk, and give up what `activate` took.

        Raises HostError; nothing has changed then.
        """
        ...

    def close(self) -> None:
        """Release all of it. Safe to call twice."""
        ...


class MachineLifecycle(ABC):
    """The run states of one machine; a class that implements Machine inherits it.

    The states, and what leaves them:

        PAUSED --resume()--> RUNNING --pause()--> PAUSED
        PAUSED, RUNNING --the guest powers off--> SHUTDOWN
        PAUSED, RUNNING --the guest asks for a reset--> RESET --reset()--> PAUSED
        PAUSED, RUNNING, RESET --a vCPU or a device fails--> FAILED

    SHUTDOWN and FAILED are final. A guest may power off after pause() was called, in the
    instruction that a vCPU ends with: the state is SHUTDOWN then, when pause() returns.
    """

    def __init__(
        self,
        condition: threading.Condition,
        runner: VcpuRunner,
        backends: Backends,
        clock: GuestClock | None = None,
    ) -> None:
        """Begin PAUSED, with `clock` stopped if there is one."""
        self._condition = condition
        self._runner = runner
        self._backends = backends
        self._backends_work = False
        # Orders pause() and resume() as a whole: backends are told without the condition, which
        # their threads may need to finish.
        self._order = threading.RLock()
        self._clock = clock
        self._throttle = Throttle(condition, runner.holds)
        self._state = RunState.PAUSED
        self._failure: Exception | None = None
        self._closed = False

    @property
    @abstractmethod
    def description(self) -> MachineDescription:
        """Return what a destination must provide."""

    @property
    def run_state(self) -> RunState:
        """Return what the machine is doing now."""
        return self._state

    @property
    def failure(self) -> Exception | None:
        """Return why the machine is FAILED, else None."""
        return self._failure

    def resume(self) -> None:
        """Let all vCPUs run; see Machine."""
        with self._order:
            self._refuse_ended()
            self._backends.activate()
            self._start()

    def _refuse_ended(self) -> None:
        with self._condition:
            self._refuse_closed()
            self._refuse_over("resume")
            if self._state is RunState.RESET:
                raise RunStateError(
                    "cannot resume the machine: its guest asked for a reset, which comes first"
                )

    def _refuse_over(self, order: str) -> None:
        if self._is_over():
            raise RunStateError(
                f"cannot {order} the machine: its state is {self._state.value!r}, which is final"
            )

    def _start(self) -> None:
        with self._condition:
            self._refuse_ended()
            was_paused = self._state is RunState.PAUSED
            if was_paused:
                self._runner.wait_stopped()
            self._state = RunState.RUNNING
            self._runner.holds.when_free(self._resume_backends)
            # At the last moment: what passes before the vCPUs run is a step of the guest's clock.
            if was_paused and self._clock is not None:
                self._clock.start()
            self._runner.start()

    def _resume_backends(self) -> None:
        """Let the backends work; before the vCPUs run, with the condition held."""
        if not self._backends_work:
            self._backends_work = True
            self._backends.resume(self._fail)

    def pause(self) -> None:
        """Stop all vCPUs between instructions; see Machine."""
        with self._order:
            self._stop()
            if self._backends_work:
                self._backends_work = False
                self._backends.pause()

    def reset(self) -> None:
        """Make all but RAM and time what it is at power-on; see Machine."""
        with self._order:
            with self._while_paused():
                self._refuse_over("reset")
            self.pause()  # a guest that asked for its reset has left its devices at work
            with self._while_paused():
                self._refuse_over("reset")
                self._reset_parts()
                self._state = RunState.PAUSED
                self._condition.notify_all()

    def activate(self) -> None:
        """Take what only the process that may run this VM holds; see Machine."""
        with self._order:
            self._refuse_closed()
            self._backends.activate()

    def inactivate(self) -> None:
        """Give up what `activate` took; see Machine."""
        with self._order:
            with self._while_paused():
                pass  # and nobody can resume it meanwhile
            self._backends.inactivate()

    def _stop(self) -> None:
        with self._condition:
            if self._state is RunState.RUNNING:
                self._state = RunState.PAUSED
            self._runner.holds.when_free(None)
            self._runner.stop()
            self._runner.wait_stopped()
            if self._clock is not None and self._runner.is_stopped and not self._closed:
                self._clock.stop()
            self._condition.notify_all()

    def wait(self, timeout_s: float | None = None) -> RunState:
        """Block until the machine is not RUNNING and its vCPUs are stopped; see Machine."""

        def is_over() -> bool:
            return self._state is not RunState.RUNNING and self._runner.is_stopped

        with self._condition:
            self._condition.wait_for(is_over, timeout_s)
            return self._state

    def vcpu_threads(self) -> tuple[int | None, ...]:
        """Return the host's id of each vCPU's thread; see Machine."""
        with self._condition:
            self._refuse_closed()
            vcpus = range(self.description.vcpu_count)
            return tuple(self._runner.thread_of(vcpu) for vcpu in vcpus)

    def throttle(self, percent: int) -> None:
        """Stop the vCPUs for a part of the time; see Machine."""
        with self._condition:
            self._refuse_closed()
            self._throttle.set(percent)

    @contextmanager
    def hold_if_paused(self) -> Iterator[bool]:
        """Keep a machine that is not RUNNING stopped for a block; see Machine."""
        with ExitStack() as stack:
            with self._order:  # a pause that is under way stops the backends first
                is_held = stack.enter_context(self._runner.holds.held_unless(self._runs))
            yield is_held

    def close(self) -> None:
        """Stop, and release everything. Safe to call twice."""
        with self._condition:
            if self._closed:
                return
            self._throttle.set(0)
            self._closed = True
            if self._state is RunState.RUNNING:
                self._state = RunState.PAUSED
            self._condition.notify_all()
        self._runner.close()
        self._backends.close()
        self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else self._state.value
        described = self.description
        return (
            f"<{type(self).__name__} {state}: {described.vcpu_count} "
            f"vCPU{'s' * (described.vcpu_count != 1)}, "
            f"{described.ram_bytes >> 20} MiB of RAM>"
        )

    @abstractmethod
    def _reset_parts(self) -> None:
        """Reset vCPUs, devices and the interrupt controller; all of them are stopped."""

    @abstractmethod
    def _release(self) -> None:
        """Release memory and host resources; all vCPU threads have ended."""

    def _end(self, state: RunState, failure: Exception | None = None) -> None:
        """Enter a final state or RESET, for the first reason that comes; from any thread.

        A failure counts also after the guest asked for a reset: nothing else would tell of it.
        """
        with self._condition:
            is_open = self._state in (RunState.PAUSED, RunState.RUNNING)
            if is_open or (self._state is RunState.RESET and state is RunState.FAILED):
                self._state, self._failure = state, failure
            self._runner.stop()
            self._condition.notify_all()

    def _fail(self, error: Exception) -> None:
        """Fail for an error that ended a vCPU's thread: the host's, or else a device's."""
        failure = error
        if not isinstance(error, HostError):
            failure = MachineError(f"a device of the machine failed: {error!r}")
            failure.__cause__ = error
        self._end(RunState.FAILED, failure)

    @contextmanager
    def _held(self) -> Iterator[None]:
        """Hold the vCPUs for a block, which has the condition. Raises RunStateError if closed."""
        with self._condition:
            self._refuse_closed()
            with self._runner.holds.held():
                yield

    def _held_for_parts_of_pages(
        self, gpa: int, length_bytes: int, page_bytes: int
    ) -> AbstractContextManager[None]:
        """Hold the vCPUs for a block that writes the tags of a range, if need be.

        Tags of a part of a page of `page_bytes` are written with those around them, which no vCPU
        and no other thread must change meanwhile.
        """
        is_whole = is_whole_pages(gpa, length_bytes, page_bytes)
        return nullcontext() if is_whole else self._held()

    @contextmanager
    def _while_paused(self) -> Iterator[None]:
        """Own the state of a paused machine for a block. Raises RunStateError if it runs."""
        with self._condition:
            if self._runs():
                raise RunStateError("the machine is running: pause it first")
            self._runner.wait_stopped()
            yield

    def _runs(self) -> bool:
        self._refuse_closed()
        return self._state is RunState.RUNNING

    def _is_over(self) -> bool:
        return self._state in (RunState.SHUTDOWN, RunState.FAILED)

    def _refuse_closed(self) -> None:
        if self._closed:
            raise RunStateError("the machine is closed")


Paused = Callable[[], AbstractContextManager[None]]
"""Owns the state of a paused machine for a block; raises RunStateError if it runs."""
