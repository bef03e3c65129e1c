"""The threads of a machine's vCPUs, and how they are stopped between two instructions.

A vCPU's thread blocks every signal; KVM_RUN alone unblocks one, the kick. A kick that comes
before KVM_RUN stays pending and ends it at once, so none is lost, no handler is needed and any
thread may create a machine. Before a vCPU counts as stopped, KVM_RUN is entered once more with
`immediate_exit`, which completes the instruction of the last exit and runs nothing: so no state
is saved between a device access and its effect.
"""

import signal
import threading
from collections.abc import Callable, Sequence
from typing import Final

from tagalong.kvm.vcpu_fd import VcpuDescriptor
from tagalong.machine.holds import VcpuHolds

KICK: Final = signal.SIGUSR1

HandleExit = Callable[[int, VcpuDescriptor, int], None]
Fail = Callable[[Exception], None]


class KvmRunner:
    """Runs vCPUs, each in a thread; implements machine.lifecycle.VcpuRunner.

    `condition` guards everything here; its owner waits on it for what happens. `handle` is
    called for each exit, in the vCPU's thread; `fail` with an error that ended one.
    """

    def __init__(
        self,
        condition: threading.Condition,
        vcpus: Sequence[VcpuDescriptor],
        handle: HandleExit,
        fail: Fail,
    ) -> None:
        self._condition = condition
        self._vcpus = vcpus
        self._handle = handle
        self._fail = fail
        self._is_started = False
        self._closed = False
        self.holds = VcpuHolds(condition, self.wait_stopped)
        self._inside: set[int] = set()
        self._threads: list[threading.Thread] = []
        for vcpu in vcpus:
            vcpu.set_signal_mask([n for n in signal.valid_signals() if n != KICK])

    @property
    def is_stopped(self) -> bool:
        """Return whether no vCPU runs or has an exit left to handle."""
        return not self._inside

    def start(self) -> None:
        """Let the vCPUs run."""
        with self._condition:
            self._is_started = True
            if not self._threads:
                self._create_threads()
            self._condition.notify_all()

    def stop(self) -> None:
        """Make the vCPUs stop soon."""
        with self._condition:
            self._is_started = False
            self._kick()

    def wait_stopped(self) -> None:
        """Make the vCPUs stop and return when they have. In a vCPU's thread, do nothing."""
        with self._condition:
            if threading.current_thread() not in self._threads:
                self._kick()
                self._condition.wait_for(lambda: self.is_stopped)

    def thread_of(self, vcpu: int) -> int | None:
        """Return the host's id of a vCPU's thread, None before the first start."""
        return self._threads[vcpu].native_id if self._threads else None

    def close(self) -> None:
        """Stop for ever and end the threads. Safe to call twice."""
        with self._condition:
            self._closed = True
            self._kick()
            self._condition.notify_all()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()

    def _create_threads(self) -> None:
        self._threads = [
            threading.Thread(target=self._run, args=(index, vcpu), name=f"vcpu{index}", daemon=True)
            for index, vcpu in enumerate(self._vcpus)
        ]
        for thread in self._threads:
            thread.start()

    def _kick(self) -> None:
        for index in self._inside:
            identity = self._threads[index].ident
            if identity is not None:
                signal.pthread_kill(identity, KICK)

    def _run(self, index: int, vcpu: VcpuDescriptor) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
        try:
            while self._enter(index, vcpu):
                reason = vcpu.enter()
                if reason is None:
                    _take_kicks()
                else:
                    self._handle(index, vcpu, reason)
        except Exception as error:  # noqa: BLE001 - or a dead thread would pass for a running vCPU
            self._leave(index)
            self._fail(error)

    def _enter(self, index: int, vcpu: VcpuDescriptor) -> bool:
        """Wait until the vCPU may run; False when it never will again."""
        # Without the lock: a stop that comes now has its kick wait for KVM_RUN.
        if index in self._inside and self._may_run():
            return True
        with self._condition:
            if index in self._inside:
                if self._may_run():
                    return True
                vcpu.finish_exit()
                self._leave(index)
            self._condition.wait_for(lambda: self._closed or self._may_run())
            if self._closed:
                return False
            self._inside.add(index)
            return True

    def _leave(self, index: int) -> None:
        with self._condition:
            self._inside.discard(index)
            self._condition.notify_all()

    def _may_run(self) -> bool:
        return self._is_started and not self.holds.is_held and not self._closed


def _take_kicks() -> None:
    """Take pending kicks, which are blocked here and would end the next KVM_RUN."""
    while signal.sigtimedwait((KICK,), 0) is not None:
        pass
