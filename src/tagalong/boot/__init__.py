"""Puts a program into a new machine.

program  loads a guest program and writes its boot block
choice   finds the guest program that a command names
"""

from typing import TYPE_CHECKING

from tagalong._lazy import names_of

if TYPE_CHECKING:
    from tagalong.boot.program import (
        BOOT_BLOCK,
        BOOT_MAGIC,
        COMMAND_LINE_MAX_BYTES,
        boot_guest,
        clear_ram,
        guest_image_path,
        parse_image,
        reported_status,
    )
else:
    __getattr__, __dir__ = names_of(
        __name__,
        {
            "tagalong.boot.program": (
                "BOOT_BLOCK",
                "BOOT_MAGIC",
                "COMMAND_LINE_MAX_BYTES",
                "boot_guest",
                "clear_ram",
                "guest_image_path",
                "parse_image",
                "reported_status",
            ),
        },
    )

__all__ = [
    "BOOT_BLOCK",
    "BOOT_MAGIC",
    "COMMAND_LINE_MAX_BYTES",
    "boot_guest",
    "clear_ram",
    "guest_image_path",
    "parse_image",
    "reported_status",
]
