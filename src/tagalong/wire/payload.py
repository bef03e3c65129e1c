"""Reads a payload whose parts say how long the next ones are, without passing its end."""

from tagalong.binary.layout import Buffer, Layout, MalformedError

_NAME_CHARACTERS = frozenset(range(0x21, 0x7F))


class PayloadReader:
    """A position in a payload; `at` counts bytes from the payload's start.

    Every method raises MalformedError, and moves `at` only if it does not.
    """

    def __init__(self, payload: Buffer) -> None:
        self._payload = memoryview(payload)
        self.at = 0

    def take(self, layout: Layout) -> dict[str, int]:
        """Return the fields of `layout`, which come next."""
        values = layout.unpack(self._payload, self.at)
        self.at += layout.size
        return values

    def take_bytes(self, size: int, what: str, *, at: int) -> memoryview:
        """Return the next `size` bytes; `at` is the place of the field that says so."""
        left = len(self._payload) - self.at
        if size > left:
            raise MalformedError(f"{what} takes {size:#x} bytes, but {left:#x} are left", offset=at)
        taken = self._payload[self.at : self.at + size]
        self.at += size
        return taken

    def take_name(self, size: int, what: str, *, at: int) -> str:
        """Return the next `size` bytes as a name: printable ASCII without space."""
        start = self.at
        raw = bytes(self.take_bytes(size, f"a {what}", at=at))
        if not _NAME_CHARACTERS.issuperset(raw):
            raise MalformedError(f"{raw!r} is not a {what}", offset=start)
        return raw.decode("ascii")

    def peek(self, most_bytes: int) -> bytes:
        """Return a copy of what comes next, `most_bytes` or all that is left; `at` stays."""
        return bytes(self._payload[self.at : self.at + most_bytes])

    def finish(self, what: str) -> None:
        """Raise if bytes are left."""
        left = len(self._payload) - self.at
        if left:
            raise MalformedError(f"{left:#x} bytes are left over after {what}", offset=self.at)


def require_range(what: str, count: int, limit: int, *, at: int, at_least: int = 0) -> None:
    """Raise MalformedError unless `at_least` <= `count` <= `limit`; `at` is the field's place."""
    if not at_least <= count <= limit:
        raise MalformedError(
            f"{count:#x} {what}: {at_least:#x} to {limit:#x} are possible", offset=at
        )


def require_choice(
    layout: Layout, values: dict[str, int], name: str, choices: tuple[int, ...], *, at: int = 0
) -> None:
    """Raise MalformedError unless the field `name` of a layout at `at` has one of the values."""
    if values[name] not in choices:
        known = ", ".join(f"{choice:#x}" for choice in choices)
        raise MalformedError(
            f"{name} is {values[name]:#x}, possible are {known}", offset=at + layout.offsets[name]
        )


def require_count(layout: Layout, values: dict[str, int], name: str, limit: int) -> None:
    """Raise MalformedError unless the field `name` is 1 to `limit`."""
    if not 1 <= values[name] <= limit:
        raise MalformedError(
            f"{name} is {values[name]:#x}, possible are 0x1 to {limit:#x}",
            offset=layout.offsets[name],
        )
