"""Compressed data are one Zstandard frame, and nothing is behind it."""

import numpy as np
import pytest
import zstandard

from tagalong.binary.layout import MalformedError
from tagalong.wire.plane_codec import require_one_frame

CONTENTS = {
    "nothing": b"",
    "zeros": bytes(1 << 20),
    "noise": np.random.default_rng(1).bytes(300_000),
    "text": b"allocation tags travel with their data. " * 9000,
}


@pytest.mark.parametrize("has_checksum", [False, True])
@pytest.mark.parametrize("content", list(CONTENTS))
def test_one_frame_is_accepted_and_nothing_more_or_less(content: str, has_checksum: bool) -> None:
    frame = zstandard.ZstdCompressor(write_checksum=has_checksum).compress(CONTENTS[content])

    require_one_frame(memoryview(frame))

    for wrong in (frame + b"\0", frame + frame, frame[:-1], frame[: len(frame) // 2 + 3]):
        with pytest.raises((MalformedError, zstandard.ZstdError), match=r"decompress|header"):
            require_one_frame(memoryview(wrong))


def test_frame_whose_blocks_never_end_is_rejected() -> None:
    head = zstandard.ZstdCompressor().compress(bytes(1 << 16))
    size = zstandard.frame_header_size(head)

    with pytest.raises(MalformedError, match="a block is cut off"):
        require_one_frame(memoryview(head[:size] + bytes(3) * 50))
