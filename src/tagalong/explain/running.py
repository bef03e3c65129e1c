"""Looks at a VM that runs: dumps it to a temporary file, and it runs on."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from tagalong.control.interrupt import run_interruptible
from tagalong.control.saving import save_vm
from tagalong.qapi.saving import SaveKind, SaveRequest


@contextmanager
def dumped(control: Path) -> Iterator[Path]:
    """Yield a dump of the VM behind a control socket, which is gone afterwards.

    The guest is paused meanwhile and then runs on. Raises what `save_vm` raises, Interrupted.
    """
    with tempfile.TemporaryDirectory(prefix="tagalong-") as folder:
        path = Path(folder) / "vm.core"
        request = SaveRequest(path=path, kind=SaveKind.DUMP)
        run_interruptible(partial(save_vm, control, request, lambda _: None))
        yield path
