"""Uses the time that a destination waits: makes the arriving machine's memory ready."""

import threading
from collections.abc import Callable, Sequence

from tagalong.errors import HostError
from tagalong.machine import Machine, MachineDescription
from tagalong.memory.reserve import release_reserved, reserve

Build = Callable[[MachineDescription], Machine]


class Preparation:
    """Reserves memory for planes of these sizes, in a thread, until a machine is built.

    Memory that is not ready in time is used as it is. `failure` is why not all could be reserved:
    the migration need not fail for that.
    """

    def __init__(self, sizes_bytes: Sequence[int]) -> None:
        self.failure: HostError | None = None
        self._sizes_bytes = sizes_bytes
        self._is_enough = threading.Event()
        self._thread = threading.Thread(target=self._run, name="prepare", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            for size_bytes in self._sizes_bytes:
                reserve(size_bytes, self._is_enough.is_set)
        except HostError as error:
            self.failure = error
        except (OSError, MemoryError) as error:
            self.failure = HostError(f"cannot reserve memory: {error}")

    def before(self, build: Build) -> Build:
        """Return `build`, preceded by the end of the preparation."""

        def build_prepared(description: MachineDescription) -> Machine:
            self.finish()
            return build(description)

        return build_prepared

    def finish(self) -> None:
        """Reserve nothing more. Safe to call twice."""
        self._is_enough.set()
        self._thread.join()

    def close(self) -> None:
        """Release reserved memory that no machine uses."""
        self.finish()
        release_reserved()
