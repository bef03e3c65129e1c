"""Why a device interrupts, and the line that follows: the machine's, or KVM's."""

import os
import threading

import pytest

from tagalong.devices import InterruptStatus, IrqLine
from tagalong.errors import HostError


def followed() -> tuple[InterruptStatus, list[bool]]:
    """Return a status, and the levels that its line was set to."""
    levels: list[bool] = []
    status = InterruptStatus()
    status.follow(IrqLine(48, lambda _intid, level: levels.append(level)))
    return status, levels


def test_line_is_high_while_there_is_any_reason() -> None:
    status, levels = followed()

    for clear, add in ((0, 1), (0, 2), (1, 0), (1, 0), (2, 0), (3, 3), (3, 2)):
        status.change(clear=clear, add=add)

    assert levels == [True, False, True]
    assert status.reasons == 2


def test_reasons_from_many_threads_are_all_there() -> None:
    status = InterruptStatus()

    def add_each(bits: range) -> None:
        for bit in bits:
            status.change(add=1 << bit)

    threads = [threading.Thread(target=add_each, args=(range(n, 32, 4),)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert status.reasons == 0xFFFF_FFFF


def test_line_of_kvm_that_cannot_be_set_is_an_error_of_the_host() -> None:
    status, levels = followed()
    with open(os.devnull) as no_vm:
        status.connect(no_vm.fileno(), 48, 0x0A00_0000)

        with pytest.raises(HostError, match="KVM_IRQ_LINE failed: Inappropriate ioctl"):
            status.change(add=1)

    assert levels == []  # the line is KVM's, and no other follows


def test_status_that_is_disconnected_asks_nothing_of_kvm() -> None:
    status = InterruptStatus()
    with open(os.devnull) as no_vm:
        status.connect(no_vm.fileno(), 48, 0x0A00_0000)
    status.disconnect()

    status.change(add=1)

    assert status.reasons == 1
