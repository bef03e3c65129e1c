"""Where everything lies, on both sides of the oracle: the same virtual addresses.

    0x4030_0000  DATA       3 pages  read-write, tagged
    0x4030_3000  READONLY   1 page   read-only, tagged
    0x4030_4000  a hole
    0x4030_5000  PLAIN      1 page   read-write, without tags
    0x4038_0000  CODE       read-only, executable; one slot a program
    0x9_4675_8000  SUPERVISOR  vectors and log of our side's EL1; unmapped in the oracle
    0x9_4D31_8000  RUNNER      the oracle's own program; unmapped on our side

The last two stand where no arithmetic on 32 bits, on pointers or on the PC leads by chance, and
have no multiple of 1 MiB in them: a number of 16 bits is soon shifted to one.
Literal loads and ADR reach from CODE to DATA. What programs start from (contents of the pages,
tags of READONLY) is the same for every program.
"""

import random

from tagalong.mte import GRANULE_BYTES

RAM = 0x4000_0000
RAM_BYTES = 8 << 20
PAGE_BYTES = 4096
DATA = 0x4030_0000
DATA_BYTES = 3 * PAGE_BYTES
DATA_GRANULES = DATA_BYTES // GRANULE_BYTES
READONLY = DATA + DATA_BYTES
READONLY_GRANULES = PAGE_BYTES // GRANULE_BYTES
HOLE = READONLY + PAGE_BYTES
PLAIN = HOLE + PAGE_BYTES
AREA_END = PLAIN + PAGE_BYTES

CODE = 0x4038_0000
SLOT_BYTES = 2048
SLOTS = 256
CODE_BYTES = SLOT_BYTES * SLOTS

SUPERVISOR = 0x9_4675_8000
SUPERVISOR_BYTES = 0x4_0000
RUNNER = 0x9_4D31_8000
RUNNER_BYTES = 0xC_0000

# A program's last words: branches first, so that a pending asynchronous tag fault is seen
# by the oracle before the end, then the undefined instruction that ends every program.
EPILOGUE_BRANCHES = 2
MAX_PROGRAM_WORDS = SLOT_BYTES // 4 - EPILOGUE_BRANCHES - 1
MAX_FAULTS = 384

ZVA_BLOCK_BYTES = 512


def _image(name: str, size: int) -> bytes:
    return random.Random(f"oracle image {name}").randbytes(size)


DATA_IMAGE = _image("data", DATA_BYTES)
READONLY_IMAGE = _image("readonly", PAGE_BYTES)
PLAIN_IMAGE = _image("plain", PAGE_BYTES)
READONLY_TAGS = bytes(tag & 15 for tag in _image("readonly tags", READONLY_GRANULES))


def slot_address(slot: int) -> int:
    """Return the address of a slot's first instruction."""
    return CODE + slot * SLOT_BYTES
