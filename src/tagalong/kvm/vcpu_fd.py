"""The descriptor of a vCPU: run, registers, power, pending exceptions."""

import ctypes
import errno
import mmap
import os
from collections.abc import Sequence
from contextlib import suppress
from itertools import accumulate

from tagalong._native import KvmAnswers, KvmExit, PublishedRegister, library
from tagalong.devices import InterruptStatus
from tagalong.errors import HostError
from tagalong.kvm.abi import (
    KvmExitReason,
    KvmIoctl,
    kvm_mp_state,
    kvm_one_reg,
    kvm_reg_list,
    kvm_run,
    kvm_signal_mask,
    kvm_vcpu_events,
    kvm_vcpu_init,
)
from tagalong.kvm.descriptor import Descriptor, IoctlError
from tagalong.machine import RegisterId
from tagalong.machine.register_ids import register_bytes

_SIGNALS = 64
_LINE_FAILED = 0xFFFF_FFFF  # TA_KVM_EXIT_LINE


class VcpuDescriptor(Descriptor):
    """One vCPU; `run` is the page that it shares with KVM."""

    def __init__(self, fd: int, run_bytes: int) -> None:
        super().__init__(fd)
        self._pages = mmap.mmap(fd, run_bytes, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self.run = kvm_run.from_buffer(self._pages)
        self.exit = KvmExit()
        self._shared = ctypes.addressof(self.run)
        self.answer((), ())

    def answer(
        self, statuses: Sequence[InterruptStatus], registers: Sequence[PublishedRegister]
    ) -> None:
        """Let native code answer accesses to these within `enter`; the statuses are connected."""
        interrupts = (ctypes.c_void_p * len(statuses))(*(each.native for each in statuses))
        published = (ctypes.c_void_p * len(registers))(*map(ctypes.addressof, registers))
        self._answers = KvmAnswers(
            ctypes.addressof(interrupts), len(statuses), ctypes.addressof(published), len(registers)
        )
        # All of it lives as long as native code knows of it.
        self._answered = (*statuses, *registers, interrupts, published)

    def initialise(self, kind: kvm_vcpu_init, features: Sequence[int]) -> None:
        """Make it a vCPU of `kind` with these features. Raises IoctlError."""
        request = kvm_vcpu_init(target=kind.target)
        for feature in features:
            request.features[feature // 32] |= 1 << feature % 32
        self.ioctl(KvmIoctl.KVM_ARM_VCPU_INIT, request)

    def set_signal_mask(self, blocked: Sequence[int]) -> None:
        """Say which signals stay blocked while the guest runs. Raises IoctlError."""
        mask = sum(1 << (number - 1) for number in blocked)
        request = kvm_signal_mask(len=_SIGNALS // 8)
        request.sigset[:] = mask.to_bytes(_SIGNALS // 8, "little")
        self.ioctl(KvmIoctl.KVM_SET_SIGNAL_MASK, request)

    def enter(self) -> int | None:
        """Run the guest; return the exit's reason, None if a signal or nothing ended it.

        `exit` says more of it. What the VMM left in `run` for the last exit is taken up first.
        Raises IoctlError, HostError.
        """
        result = library().ta_kvm_run(
            self.fd, self._shared, ctypes.byref(self._answers), ctypes.byref(self.exit)
        )
        if result < 0:
            self._require_signal(-result)
            return None
        reason = int(self.exit.reason)
        return None if reason == KvmExitReason.KVM_EXIT_INTR else reason

    def _require_signal(self, number: int) -> None:
        """Raise an error of `enter`, unless it is that a signal came."""
        if self.exit.reason == _LINE_FAILED:
            raise HostError(f"KVM_IRQ_LINE failed: {os.strerror(number)}")
        if number not in (errno.EINTR, errno.EAGAIN):
            raise IoctlError(KvmIoctl.KVM_RUN, 0, number)

    def finish_exit(self) -> None:
        """Complete the instruction of the last exit without running on. Raises IoctlError."""
        self.run.immediate_exit = 1
        try:
            self.enter()
        finally:
            self.run.immediate_exit = 0

    def register_ids(self) -> tuple[RegisterId, ...]:
        """Return the ids of all registers that make up its state. Raises IoctlError."""
        count = self._register_count()

        class List(ctypes.Structure):
            _fields_ = (("n", ctypes.c_uint64), ("reg", ctypes.c_uint64 * count))

        ids = List(n=count)
        self.ioctl(KvmIoctl.KVM_GET_REG_LIST, ids)
        found: tuple[RegisterId, ...] = tuple(ids.reg[: ids.n])
        return found

    def _register_count(self) -> int:
        head = kvm_reg_list(n=0)
        try:
            self.ioctl(KvmIoctl.KVM_GET_REG_LIST, head)
        except IoctlError as error:
            if error.errno != errno.E2BIG:
                raise
        return int(head.n)

    def get_register(self, register: RegisterId) -> int:
        """Return a register's value. Raises IoctlError: ENOENT for an unknown id."""
        buffer = (ctypes.c_uint8 * register_bytes(register))()
        request = kvm_one_reg(id=register, addr=ctypes.addressof(buffer))
        self.ioctl(KvmIoctl.KVM_GET_ONE_REG, request)
        return int.from_bytes(buffer, "little")

    def get_registers(self, registers: Sequence[RegisterId]) -> dict[RegisterId, int]:
        """Return the values of many registers, by one call of the native library.

        Raises IoctlError for the first that cannot be read.
        """
        ends = [*accumulate(map(register_bytes, registers))]
        starts = [0, *ends]
        buffer = (ctypes.c_uint8 * (starts[-1] or 1))()
        at = ctypes.addressof(buffer)
        requests = (kvm_one_reg * len(registers))(
            *(kvm_one_reg(each, at + start) for each, start in zip(registers, starts, strict=False))
        )
        self.ioctl_each(KvmIoctl.KVM_GET_ONE_REG, requests)
        found = bytes(buffer)
        return {
            register: int.from_bytes(found[start:end], "little")
            for register, start, end in zip(registers, starts, ends, strict=False)
        }

    def set_register(self, register: RegisterId, value: int) -> None:
        """Write a register; `value` fits into it. Raises IoctlError."""
        size = register_bytes(register)
        buffer = (ctypes.c_uint8 * size)(*value.to_bytes(size, "little"))
        request = kvm_one_reg(id=register, addr=ctypes.addressof(buffer))
        self.ioctl(KvmIoctl.KVM_SET_ONE_REG, request)

    def get_mp_state(self) -> int:
        """Return whether the vCPU is on. Raises IoctlError."""
        state = kvm_mp_state()
        self.ioctl(KvmIoctl.KVM_GET_MP_STATE, state)
        return int(state.mp_state)

    def set_mp_state(self, value: int) -> None:
        """Switch the vCPU on or off. Raises IoctlError."""
        self.ioctl(KvmIoctl.KVM_SET_MP_STATE, kvm_mp_state(mp_state=value))

    def get_events(self) -> kvm_vcpu_events:
        """Return the exceptions that it is still to take. Raises IoctlError."""
        events = kvm_vcpu_events()
        self.ioctl(KvmIoctl.KVM_GET_VCPU_EVENTS, events)
        return events

    def set_events(self, events: kvm_vcpu_events) -> None:
        """Make exceptions pending. Raises IoctlError."""
        self.ioctl(KvmIoctl.KVM_SET_VCPU_EVENTS, events)

    def close(self) -> None:
        """Unmap the shared pages and close the descriptor."""
        if self._fd is not None:
            del self.run
            # The traceback of an error that ended the vCPU may refer to `run`: the pages are
            # unmapped with the last reference then.
            with suppress(BufferError):
                self._pages.close()
        super().close()
