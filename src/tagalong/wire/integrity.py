"""The checksums of a record (docs/formats/stream.md, section 3).

The seed is the record's place in its stream. A record that is lost, repeated or out of
order therefore fails like one that was changed, at no byte's cost.
"""

import xxhash

from tagalong.wire.layout import Buffer


class RecordHash:
    """XXH3-64 over the checked bytes of a record's header and whatever follows them."""

    def __init__(self, sequence: int, checked_header: Buffer) -> None:
        self._state = xxhash.xxh3_64(checked_header, seed=sequence)

    def update(self, *parts: Buffer) -> None:
        """Take in the bytes that follow."""
        for part in parts:
            self._state.update(part)

    def value(self) -> int:
        """Return the checksum over everything taken in so far."""
        value: int = self._state.intdigest()
        return value


def head_check(sequence: int, checked_header: Buffer, *head: Buffer) -> int:
    """Return the `head_check` of a PAGES record: over its header, its head and its runs."""
    state = RecordHash(sequence, checked_header)
    state.update(*head)
    return state.value()
