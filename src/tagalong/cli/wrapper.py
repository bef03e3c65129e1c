"""`tagalong-qemu`: what libvirt can use as <emulator>. It has no options of its own."""

import os
import sys

from tagalong.beside.wrapper import run_wrapper
from tagalong.cli.failure import error_line
from tagalong.errors import TagalongError


def main() -> None:
    """Let QEMU take this process's place, with tagalong beside it if it runs a guest."""
    try:
        run_wrapper(sys.argv[1:], os.environ)
    except TagalongError as error:
        print(error_line(error), file=sys.stderr)  # noqa: T201 (libvirt's log of the domain)
        sys.exit(error.exit_code)
