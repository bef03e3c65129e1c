"""The threads of a machine's vCPUs: who may run, and how they are made to stand.

A vCPU's thread blocks every signal; only KVM_RUN lets one in, the kick. A kick that comes
before KVM_RUN stays pending and ends it at once, so none is lost, no handler is needed and
any thread may create a machine. Before a vCPU stands, KVM_RUN is entered once more with
`immediate_exit`, which completes the instruction of the last exit and runs nothing: so no
state is saved between a device access and its effect.
"""

import signal
import threading
from collections.abc import Callable, Sequence
from typing import Final

from tagalong.errors import TagalongError
from tagalong.kvm.vcpu_fd import VcpuDescriptor
from tagalong.machine.holds import Holds

KICK: Final = signal.SIGUSR1

HandleExit = Callable[[int, VcpuDescriptor, int], None]
Fail = Callable[[TagalongError], None]


class VcpuThreads:
    """Runs vCPUs while `go` was called last and not `stop`, and nobody has a hold of `holds`.

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
        self._may_go = False
        self._closed = False
        self.holds = Holds(condition, self.stand)
        self._inside: set[int] = set()
        self._threads: list[threading.Thread] = []
        for vcpu in vcpus:
            vcpu.set_signal_mask([n for n in signal.valid_signals() if n != KICK])

    def go(self) -> None:
        """Let the vCPUs run."""
        with self._condition:
            self._may_go = True
            if not self._threads:
                self._start()
            self._condition.notify_all()

    def stop(self) -> None:
        """Make the vCPUs stand soon. From any thread."""
        with self._condition:
            self._may_go = False
            self._kick()

    def stand(self) -> None:
        """Wait until all vCPUs stand, having been told to. In a vCPU's thread: do nothing."""
        with self._condition:
            if threading.current_thread() not in self._threads:
                self._kick()
                self._condition.wait_for(self.are_standing)

    def are_standing(self) -> bool:
        """Return whether no vCPU runs or has an exit left to handle."""
        return not self._inside

    def close(self) -> None:
        """Stop for ever and end the threads. Safe to call twice."""
        with self._condition:
            self._closed = True
            self._kick()
            self._condition.notify_all()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()

    def _start(self) -> None:
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
        except TagalongError as error:
            self._leave(index)
            self._fail(error)

    def _enter(self, index: int, vcpu: VcpuDescriptor) -> bool:
        """Wait until the vCPU may run; False when it never will again."""
        with self._condition:
            if index in self._inside:
                if self._is_free():
                    return True
                vcpu.finish_exit()
                self._leave(index)
            self._condition.wait_for(lambda: self._closed or self._is_free())
            if self._closed:
                return False
            self._inside.add(index)
            return True

    def _leave(self, index: int) -> None:
        with self._condition:
            self._inside.discard(index)
            self._condition.notify_all()

    def _is_free(self) -> bool:
        return self._may_go and not self.holds.is_held and not self._closed


def _take_kicks() -> None:
    """Take pending kicks, which are blocked here and would end the next KVM_RUN."""
    while signal.sigtimedwait((KICK,), 0) is not None:
        pass
