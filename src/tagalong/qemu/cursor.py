"""A place in a file of QEMU's, from which big-endian fields are read one after the other."""

from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from tagalong.core.source import Source
from tagalong.errors import MalformedCoreError


class Cursor:
    """Reads fields of `source` from byte `at` on; `what` names the file in errors.

    Every method raises MalformedCoreError, with the offset, for what the file does not have.
    """

    def __init__(self, source: Source, what: str, at: int = 0) -> None:
        self.source = source
        self.at = at
        self._what = what

    @property
    def left(self) -> int:
        """Return how many bytes follow."""
        return self.source.size - self.at

    def view(self, size: int) -> NDArray[np.uint8]:
        """Return the next `size` bytes without a copy, shape (size,), and go past them."""
        if size > self.left:
            self.fail(
                f"{size:#x} bytes must follow, but the file ends after {max(self.left, 0):#x}: it "
                "was cut short"
            )
        self.at += size
        return self.source.view(self.at - size, size)

    def take(self, size: int) -> bytes:
        """Return the next `size` bytes."""
        return self.view(size).tobytes()

    def number(self, size: int) -> int:
        """Return a number of `size` bytes."""
        return int.from_bytes(self.take(size), "big")

    def text(self, size: int, what: str) -> str:
        """Return a name of `size` bytes of printable ASCII; `what` it is, for errors."""
        start = self.at
        raw = self.take(size)
        if not all(0x20 <= byte < 0x7F for byte in raw):
            self.fail(f"{what} is no name: {raw[:32]!r}", at=start)
        return raw.decode("ascii")

    def name(self, what: str) -> str:
        """Return a name with its length in front of it, in one byte."""
        return self.text(self.number(1), what)

    def peek(self) -> int | None:
        """Return the next byte and stay where it is, None at the end."""
        return int(self.source.view(self.at, 1)[0]) if self.left > 0 else None

    def seek(self, at: int, what: str) -> None:
        """Go on at byte `at`, where `what` must be. Never back: a file must come to its end."""
        if not self.at <= at <= self.source.size:
            self.fail(f"{what} at {at:#x} is not in [{self.at:#x}, {self.source.size:#x}]")
        self.at = at

    def fail(self, message: str, *, at: int | None = None) -> NoReturn:
        """Raise the error for byte `at`, by default where the cursor is."""
        place = self.at if at is None else at
        raise MalformedCoreError(message, offset=place, what=self._what)
