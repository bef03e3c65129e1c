"""Which thread processes a device's requests.

On the embedded machine the vCPU's own does, within its notification: the answer is there when the
store to QueueNotify has been carried out, at an exact instruction. So a run stays one run for one
seed, with disks too; what comes from outside (a network, a keyboard) is no part of that promise.

On KVM threads of the device do, so that a vCPU waits for no disk. KVM rings their doorbell, an
eventfd, without leaving the guest (KVM_IOEVENTFD); a machine without that rings it by `kick`.
"""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

Step = Callable[[], bool]
"""Processes some requests; returns whether there may be more. From several threads at a time."""

Fail = Callable[[Exception], None]
"""Is told of an error that ended a thread."""


class Work(Protocol):
    """Processes the requests of one device."""

    @property
    def doorbell(self) -> int | None:
        """Return an eventfd that does what `kick` does, None if there is none."""
        ...

    def kick(self) -> None:
        """Process what the driver has made available."""
        ...

    def share(self) -> None:
        """Let another thread, if one is free, process what is left; called within a step."""
        ...

    def pause(self) -> None:
        """Begin no more steps in threads of its own, and return when none is under way."""
        ...

    def resume(self, fail: Fail) -> None:
        """Undo `pause`, and process what is available. `fail` as in BackedDevice.resume."""
        ...

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Pause for a block, whether or not it is paused already."""
        ...

    def close(self) -> None:
        """End all threads. Safe to call twice."""
        ...


WorkMaker = Callable[[Step, str, int], Work]
"""Makes the work of a device of that name, which has a use for so many threads."""


class InlineWork:
    """Processes requests in the thread that announces them; implements Work."""

    doorbell = None

    def __init__(self, step: Step, name: str, threads: int) -> None:
        del name, threads
        self._step = step

    def kick(self) -> None:
        """Process all of them. A driver cannot add any meanwhile: its vCPU waits for this."""
        while self._step():
            pass

    def share(self) -> None:
        """Do nothing: there is one thread."""

    def pause(self) -> None:
        """Do nothing: all that was announced is complete."""

    def resume(self, fail: Fail) -> None:
        """Process what a machine of another kind had left."""
        del fail
        self.kick()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Do nothing."""
        yield

    def close(self) -> None:
        """Do nothing."""


class ThreadedWork:
    """Processes requests in threads, which begin with the first `resume`; implements Work."""

    def __init__(self, step: Step, name: str, threads: int) -> None:
        self._step = step
        self._name = name
        self._count = threads
        self._doorbell = os.eventfd(0, os.EFD_CLOEXEC)
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._pauses = 1  # until the machine first runs
        self._inside = 0
        self._awake = 0
        self._is_closed = False
        self._fail: Fail | None = None

    @property
    def doorbell(self) -> int:
        """Return the eventfd."""
        return self._doorbell

    def kick(self) -> None:
        """Wake a thread."""
        os.eventfd_write(self._doorbell, 1)

    def share(self) -> None:
        """Wake another thread if all but this one sleep, or some do."""
        if self._awake < self._count:
            self.kick()

    def pause(self) -> None:
        """As Work.pause."""
        with self._changed:
            self._pauses += 1
            self._changed.wait_for(lambda: self._inside == 0)

    def resume(self, fail: Fail) -> None:
        """As Work.resume."""
        self._fail = fail
        with self._changed:
            if not self._threads:
                self._begin()
        self._unpause()
        self.kick()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """As Work.paused."""
        self.pause()
        try:
            yield
        finally:
            self._unpause()

    def close(self) -> None:
        """As Work.close. The eventfd is closed, too."""
        with self._changed:
            if self._is_closed:
                return
            self._is_closed = True
            self._changed.notify_all()
        self.kick()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()
        os.close(self._doorbell)

    def _begin(self) -> None:
        self._threads = [
            threading.Thread(target=self._run, name=f"{self._name}-{number}", daemon=True)
            for number in range(self._count)
        ]
        for thread in self._threads:
            thread.start()

    def _unpause(self) -> None:
        with self._changed:
            self._pauses -= 1
            self._changed.notify_all()

    def _run(self) -> None:
        try:
            while self._wait_for_doorbell():
                while self._enter() and self._do_steps():
                    pass
                self._sleep()
        except Exception as error:  # noqa: BLE001 - or a dead thread would pass for a slow disk
            if self._fail is not None:
                self._fail(error)

    def _wait_for_doorbell(self) -> bool:
        os.eventfd_read(self._doorbell)
        with self._changed:
            self._awake += 1
            if self._is_closed:
                self.kick()  # for the next thread
            return not self._is_closed

    def _sleep(self) -> None:
        with self._changed:
            self._awake -= 1

    def _enter(self) -> bool:
        """Wait until a step may begin; False when none ever will."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or not self._pauses)
            if not self._is_closed:
                self._inside += 1
            return not self._is_closed

    def _do_steps(self) -> bool:
        """Process requests until there are no more, or a pause begins; return whether it did."""
        try:
            while self._step():
                if self._pauses or self._is_closed:
                    return True
            return False
        finally:
            with self._changed:
                self._inside -= 1
                if not self._inside:
                    self._changed.notify_all()
