"""Bayes' rule over the causes of a tag fault: each candidate is a prior and some likelihoods."""

from collections.abc import Iterator, Sequence
from typing import Final

from tagalong.explain import model
from tagalong.explain.candidates import candidates_of
from tagalong.explain.crash import Crash
from tagalong.explain.explanation import Cause, Evidence, Hypothesis
from tagalong.explain.observations import Candidate
from tagalong.explain.surroundings import Surroundings

LISTED: Final = 6
"""Hypotheses that an explanation lists; what is left over is joined by its cause."""

_CLEAR_RATIO: Final = 1.25


def weigh(crash: Crash, around: Surroundings) -> tuple[Hypothesis, ...]:
    """Return the hypotheses, most likely first. The crash has an address and a pointer's tag."""
    candidates = [each for each in candidates_of(crash, around) if each.weight > 0]
    total = sum(each.weight for each in candidates)
    if not total:
        return ()
    candidates.sort(key=lambda each: -each.weight)
    shares = [each.weight / total for each in candidates]
    listed = [
        Hypothesis(
            each.cause, share, each.text, each.block, each.distance_bytes,
            *_evidence(each, candidates, shares),
        )
        for each, share in zip(candidates[:LISTED], shares, strict=False)
    ]  # fmt: skip
    return tuple(sorted([*listed, *_rest(candidates[LISTED:], shares[LISTED:])],
                        key=lambda each: -each.probability))  # fmt: skip


def _rest(candidates: Sequence[Candidate], shares: Sequence[float]) -> Iterator[Hypothesis]:
    """Yield one hypothesis for each cause of what is not listed."""
    sums: dict[Cause, float] = {}
    for each, share in zip(candidates, shares, strict=True):
        sums[each.cause] = sums.get(each.cause, 0.0) + share
    for cause, share in sums.items():
        yield Hypothesis(cause, share, f"{_NAMES[cause]} that is not listed above: another block's")


def _evidence(
    candidate: Candidate, candidates: Sequence[Candidate], shares: Sequence[float]
) -> tuple[tuple[Evidence, ...], tuple[Evidence, ...]]:
    """Return what speaks for a candidate and what against it, compared with all others."""
    spoken = []
    others = [(c, s) for c, s in zip(candidates, shares, strict=True) if c.cause != candidate.cause]
    total = sum(share for _, share in others)
    for about, fact in candidate.facts.items():
        if not total:
            spoken.append(Evidence(fact.text, 1e6))
            continue
        mean = sum(
            share * (c.facts[about].likelihood if about in c.facts else 1.0) for c, share in others
        )
        spoken.append(Evidence(fact.text, min(1e6, fact.likelihood * total / max(mean, 1e-12))))
    supports = sorted((e for e in spoken if e.ratio > _CLEAR_RATIO), key=lambda e: -e.ratio)
    opposes = sorted((e for e in spoken if e.ratio < 1 / _CLEAR_RATIO), key=lambda e: e.ratio)
    return tuple(supports), tuple(opposes)


def weigh_blind(crash: Crash) -> tuple[Hypothesis, ...]:
    """Return the causes where no tag of memory is known: the priors, and the pointer's tag."""
    likelihoods = {}
    for cause, prior in model.PRIORS.items():
        if cause in _NEED_MEMORY:
            continue
        is_any = cause is Cause.WILD_POINTER
        chance = 1 / 16 if is_any else float((crash.fault.pointer_tag != 0) ^ (cause in _UNTAGGED))
        likelihoods[cause] = prior * chance
    total = sum(likelihoods.values())
    return tuple(
        Hypothesis(cause, weight / total, f"{_NAMES[cause]}, by how often that is the cause")
        for cause, weight in sorted(likelihoods.items(), key=lambda item: -item[1])
        if weight
    )


_NAMES: Final = {
    Cause.OVERFLOW: "an overflow",
    Cause.UNDERFLOW: "an underflow",
    Cause.USE_AFTER_FREE: "a use after free",
    Cause.USE_AFTER_REUSE: "a use after free",
    Cause.DOUBLE_FREE: "a double free",
    Cause.INVALID_FREE: "an invalid free",
    Cause.LOST_POINTER_TAG: "a pointer without its tag",
    Cause.WILD_POINTER: "a wild pointer",
    Cause.LOST_MEMORY_TAGS: "lost tags",
    Cause.MATCH_ALL: "a tag without a meaning",
    Cause.STACK_OVERFLOW: "an overflow on the stack",
    Cause.STACK_USE_AFTER_RETURN: "a use after return",
}
_UNTAGGED: Final = frozenset((Cause.LOST_POINTER_TAG,))
_NEED_MEMORY: Final = frozenset((Cause.MATCH_ALL, Cause.INVALID_FREE))
