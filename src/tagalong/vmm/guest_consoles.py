"""All consoles of one VM: its UART, and its virtio consoles by their names.

Where each one is belongs to this process and is no part of the VM: a destination says so again, and
a console that it says nothing of is nowhere there.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tagalong._lazy import module_when_used
from tagalong.devices import ConsoleBacking, Pl011
from tagalong.vmm.console_input import ConsoleInput
from tagalong.vmm.consoles import Console, ConsoleActions, create_console

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tagalong.machine import DeviceDescription
    from tagalong.qapi import devices
    from tagalong.vmm.loop_calls import LoopCalls
    from tagalong.vmm.options import RunOptions
else:  # of them only a control socket tells
    devices = module_when_used("tagalong.qapi.devices")

UART_LABEL = "serial0"
"""What query-chardev calls the UART's console, as QEMU does."""


@dataclass(frozen=True)
class _Placed:
    console: Console
    typed: ConsoleInput


class GuestConsoles:
    """The consoles that `options` ask for; all methods are called in the event loop's thread.

    `while_running`, `loop`: as ConsoleInput has them. Raises UsageError, HostError; nothing is left
    then.
    """

    def __init__(
        self,
        options: RunOptions,
        actions: ConsoleActions,
        while_running: Callable[[Callable[[], None]], bool],
        loop: LoopCalls | None = None,
    ) -> None:
        with ExitStack() as undo:

            def place(where: str, actions: ConsoleActions) -> _Placed:
                console = create_console(where, actions)
                undo.callback(console.close)
                return _Placed(console, ConsoleInput(while_running, loop))

            self._uart = place(options.uart_console, actions)
            self._virtio = {
                name: place(where, replace(actions, label=name, option="virtio-console"))
                for name, where in options.virtio_consoles.items()
            }
            undo.pop_all()

    @property
    def _all(self) -> Mapping[str, _Placed]:
        return {UART_LABEL: self._uart, **self._virtio}

    def uart(self, description: DeviceDescription) -> Pl011:
        """Return a UART whose console is the one of this process; in any thread."""
        uart = Pl011(self._uart.console.write, description)
        self._uart.typed.connect(uart, uart.receive_break)
        return uart

    def backings(self) -> dict[str, ConsoleBacking]:
        """Return what backs the virtio consoles."""
        return {
            name: ConsoleBacking(each.console.write, each.typed.connect)
            for name, each in self._virtio.items()
        }

    def start(self) -> None:
        """Begin to read input. Raises HostError or UsageError."""
        for each in self._all.values():
            each.console.start(each.typed)

    def deliver(self) -> None:
        """Deliver what was typed while the guest did not run."""
        for each in self._all.values():
            each.typed.deliver()

    def char_devices(self) -> list[devices.CharDevice]:
        """Return where each console is."""
        return [devices.CharDevice(name, each.console.filename) for name, each in self._all.items()]

    def close(self) -> None:
        """Write what waits, and leave everything as it was found. Safe to call twice."""
        for each in self._all.values():
            each.console.close()
