"""Reads newc cpio archives as the kernel does, to look at what was written."""

import stat
import struct
from dataclasses import dataclass

HEADER_BYTES = 110


@dataclass(frozen=True)
class Entry:
    path: str
    mode: int
    data: bytes
    mtime_s: int
    inode: int
    device: tuple[int, int]

    @property
    def is_folder(self) -> bool:
        return stat.S_ISDIR(self.mode)


def read(archive: bytes) -> list[Entry]:
    """Return all entries up to the trailer, which must be the end."""
    place, entries = 0, list[Entry]()
    while True:
        head = archive[place : place + HEADER_BYTES]
        assert head[:6] == b"070701", f"no magic at {place:#x}"
        fields = [int(text, 16) for (text,) in struct.iter_unpack("8s", head[6:])]
        inode, mode, uid, gid, links, mtime_s, size = fields[:7]
        name_size = fields[11]
        assert (uid, gid, links) == (0, 0, 1)
        start = place + HEADER_BYTES
        name = archive[start : start + name_size]
        assert name[-1:] == b"\0"
        start = -(-(start + name_size) // 4) * 4
        data = archive[start : start + size]
        assert len(data) == size
        place = -(-(start + size) // 4) * 4
        if name == b"TRAILER!!!\0":
            assert place == len(archive)
            return entries
        device = (fields[9], fields[10])
        entries.append(Entry(name[:-1].decode(), mode, data, mtime_s, inode, device))


def read_by_path(archive: bytes) -> dict[str, Entry]:
    return {entry.path: entry for entry in read(archive)}
