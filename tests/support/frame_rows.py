"""Rows of frames (devices/virtio/frames.py) taken apart, one frame after the other."""


def frames_of(row: memoryview) -> list[bytes]:
    """Return the frames of a row: be32 length and frame, each."""
    found, at = [], 0
    while at < len(row):
        end = at + 4 + int.from_bytes(row[at : at + 4], "big")
        found.append(bytes(row[at + 4 : end]))
        at = end
    return found
