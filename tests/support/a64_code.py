"""Strings A64 encodings together and resolves labels."""

from collections.abc import Callable
from dataclasses import dataclass, field

from tests.support.a64 import b


@dataclass
class Code:
    """Instructions in a row from address `base`; labels may be used before they are set."""

    base: int
    words: list[int] = field(default_factory=list)
    _labels: dict[str, int] = field(default_factory=dict)
    _branches: list[tuple[int, str, Callable[[int], int]]] = field(default_factory=list)

    @property
    def here(self) -> int:
        """Return the address of the next instruction."""
        return self.base + 4 * len(self.words)

    def emit(self, *words: int) -> None:
        self.words.extend(words)

    def label(self, name: str) -> None:
        self._labels[name] = self.here

    def address(self, name: str) -> int:
        return self._labels[name]

    def branch(self, name: str, form: Callable[[int], int] = b) -> None:
        """Emit form(offset to the label), e.g. branch("loop", lambda o: cbz(0, o))."""
        self._branches.append((len(self.words), name, form))
        self.words.append(0)

    def pad_to(self, address: int, word: int = 0) -> None:
        self.words.extend([word] * ((address - self.here) // 4))

    def to_bytes(self) -> bytes:
        """Resolve all branches and return the little-endian image."""
        for index, name, form in self._branches:
            self.words[index] = form(self._labels[name] - (self.base + 4 * index))
        return b"".join(word.to_bytes(4, "little") for word in self.words)

    def words_of(self) -> list[int]:
        """Resolve all branches and return the instruction words."""
        image = self.to_bytes()
        return [int.from_bytes(image[i : i + 4], "little") for i in range(0, len(image), 4)]
