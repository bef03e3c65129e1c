"""Plays a VMM by what /proc shows of it: python play_vmm.py PROGRAM [shared|private SIZE]...

Maps the file PROGRAM as a program is mapped, and a memfd of each SIZE. The first page of a memfd
has data, the others are holes. Prints a line when it is ready, and ends with its standard input.
"""

import mmap
import os
import sys

with open(sys.argv[1], "rb") as program:
    mapped = [mmap.mmap(program.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ)]
for kind, size in zip(sys.argv[2::2], sys.argv[3::2], strict=True):
    fd = os.memfd_create("memory-backend-memfd")
    os.truncate(fd, int(size))
    os.pwrite(fd, b"guest", 0x1000)
    flags = mmap.MAP_SHARED if kind == "shared" else mmap.MAP_PRIVATE
    mapped.append(mmap.mmap(fd, int(size), flags))
sys.stdout.write("ready\n")
sys.stdout.flush()
sys.stdin.read()
