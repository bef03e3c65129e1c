"""The control socket of a VM, and the work that its commands begin."""

from collections.abc import Callable

from tagalong.qmp.messages import Event
from tagalong.qmp.server import ControlServer
from tagalong.socket_files import SocketFile
from tagalong.vmm.commands import VmCommands
from tagalong.vmm.device_queries import DeviceQueries
from tagalong.vmm.incoming import Incoming
from tagalong.vmm.outgoing import Outgoing
from tagalong.vmm.record import MigrationRecord
from tagalong.vmm.save_record import SaveRecord
from tagalong.vmm.saving import SavedVm, Saving
from tagalong.vmm.storage import store
from tagalong.vmm.transfer import send
from tagalong.vmm.vm import Vm

_CANCEL_TIMEOUT_S = 5.0


class VmService:
    """Serves `vm` to its operators, within an event loop.

    `incoming` returns the migration that is awaited, None if there is none. `emit` gets the events
    of what is saved.
    """

    def __init__(
        self,
        vm: Vm,
        incoming: Callable[[], Incoming | None],
        queries: DeviceQueries,
        emit: Callable[[Event], None],
    ) -> None:
        self._outgoing = Outgoing(vm, send)
        self._saving = Saving(SavedVm(vm, store), emit)
        self._server = ControlServer(
            VmCommands(vm, self._outgoing, incoming, self._saving, queries)
        )

    @property
    def migration(self) -> MigrationRecord | None:
        """Return the books of the last migration away."""
        return self._outgoing.record

    @property
    def saved(self) -> SaveRecord | None:
        """Return the books of the last snapshot or dump."""
        return self._saving.record

    def serve(self, file: SocketFile) -> None:
        """Accept the clients of the control socket, which is removed at `close`."""
        self._server.serve(file)

    def broadcast(self, event: Event) -> None:
        """Send `event` to every client that has finished negotiation."""
        self._server.broadcast(event)

    async def cancel(self) -> None:
        """Cancel what is under way and wait until it has ended."""
        await self._outgoing.cancel_and_wait(_CANCEL_TIMEOUT_S)
        await self._saving.cancel_and_wait(_CANCEL_TIMEOUT_S)

    async def close(self) -> None:
        """Let clients read what they were sent, and disconnect."""
        await self._server.close()
