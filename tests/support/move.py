"""Moves a machine to another one in this process, over a real connection."""

import threading
from collections.abc import Callable

from tagalong import migrate
from tagalong.machine import Machine
from tagalong.migrate import (
    MachineBuilder,
    MigrationOptions,
    SendProgress,
    TakeOver,
    resume_if_it_ran,
)


def move(
    machine: Machine,
    build: MachineBuilder,
    options: MigrationOptions | None = None,
    *,
    take_over: TakeOver = resume_if_it_ran,
    progress: Callable[[SendProgress], None] | None = None,
) -> Machine:
    """Return the machine that arrived; the caller closes it. Raises the source's error."""
    arrived: list[Machine] = []
    failed: list[BaseException] = []
    listener = migrate.listen(migrate.parse_address("tcp:127.0.0.1:0"))

    def receive() -> None:
        try:
            arrived.append(migrate.receive_from(listener, build, take_over=take_over).machine)
        except BaseException as error:  # noqa: BLE001 (told in the other thread)
            failed.append(error)

    destination = threading.Thread(target=receive)
    destination.start()
    try:
        with listener:
            migrate.migrate_to(str(listener.address), machine, options, progress=progress)
    finally:
        destination.join()
    if failed:
        raise failed[0]
    return arrived[0]
