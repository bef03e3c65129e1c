"""From samples of two trees that took turns to a verdict.

Absolute figures say what the machine does in this hour. A round measures both trees right after
each other, so its ratio bears what other processes take, and the rounds' spread says how well.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

_MAD_TO_SIGMA = 1.4826  # of a normal distribution
_SIGMAS = 2.0


@dataclass(frozen=True)
class Comparison:
    """Samples of one figure, round by round: `base` and `new` have the same length, at least 1.

    `bound`: the worst ratio new/base that is accepted, below 1 if higher is better, else above.
    """

    name: str
    unit: str
    base: Sequence[float]
    new: Sequence[float]
    bound: float

    @property
    def higher_is_better(self) -> bool:
        """Return whether the figure is a rate and not a time."""
        return self.bound < 1

    @property
    def ratios(self) -> list[float]:
        """Return new/base of each round."""
        return [new / base for new, base in zip(self.new, self.base, strict=True)]

    @property
    def ratio(self) -> float:
        """Return the median of the rounds' ratios."""
        return statistics.median(self.ratios)

    @property
    def noise(self) -> float:
        """Return how far the median may be off: two of its standard errors.

        They come from the median of absolute deviations, which one disturbed round of several
        does not change.
        """
        middle, ratios = self.ratio, self.ratios
        deviation = statistics.median(abs(each - middle) for each in ratios)
        return float(_SIGMAS * _MAD_TO_SIGMA * deviation / len(ratios) ** 0.5)

    @property
    def is_worse(self) -> bool:
        """Return whether the ratio is worse than its bound by more than the noise."""
        if self.higher_is_better:
            return self.ratio + self.noise < self.bound
        return self.ratio - self.noise > self.bound

    @property
    def is_unclear(self) -> bool:
        """Return whether the noise leaves open on which side of its bound the ratio is."""
        return not self.is_worse and abs(self.ratio - self.bound) < self.noise

    @property
    def mark(self) -> str:
        """Return one word: ok, worse or unclear."""
        if self.is_worse:
            return "worse"
        return "unclear" if self.is_unclear else "ok"


def verdict_text(comparisons: Sequence[Comparison]) -> str:
    """Return a sentence: which figures are worse than their bounds, or that none is."""
    worse = [each for each in comparisons if each.is_worse]
    unclear = [each.name for each in comparisons if each.is_unclear]
    if not worse and unclear:
        return (
            f"too noisy to tell: {'; '.join(unclear)}; compare again when the machine is idle, or "
            "with more --runs"
        )
    if not worse:
        return "no figure is worse than its bound beyond the noise of this run"
    said = [
        f"{each.name}: {each.ratio:.2f} ± {each.noise:.2f}, where {each.bound:.2f} is the bound"
        for each in worse
    ]
    return "worse than the base: " + "; ".join(said)
