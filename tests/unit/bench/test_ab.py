"""Comparisons of two trees: the base that is chosen, and when a figure is worse."""

import subprocess
from pathlib import Path

import pytest

from bench.ab.base import base_revision
from bench.ab.figures import GUARDED
from bench.ab.verdict import Comparison, verdict_text


def rate(base: list[float], new: list[float]) -> Comparison:
    return Comparison("rate", "GB/s", base, new, 0.95)


def duration(base: list[float], new: list[float]) -> Comparison:
    return Comparison("time", "ms", base, new, 1.1)


def test_ratio_is_the_median_of_the_rounds() -> None:
    assert rate([2, 4, 5], [1, 4, 10]).ratio == 1.0


def test_noise_ignores_one_disturbed_round() -> None:
    assert rate([1, 1, 1, 1, 1], [1, 1, 1, 1, 0.2]).noise == 0


def test_noise_grows_with_the_spread_of_the_ratios() -> None:
    quiet = rate([1, 1, 1, 1, 1], [0.98, 0.99, 1.0, 1.01, 1.02])
    loud = rate([1, 1, 1, 1, 1], [0.8, 0.9, 1.0, 1.1, 1.2])

    assert loud.noise == pytest.approx(10 * quiet.noise)


def test_rate_below_its_bound_beyond_the_noise_is_worse() -> None:
    assert rate([1, 1, 1], [0.9, 0.9, 0.9]).is_worse
    assert not rate([1, 1, 1], [0.96, 0.96, 0.96]).is_worse


def test_rate_below_its_bound_within_the_noise_is_not_worse() -> None:
    comparison = rate([1, 1, 1, 1, 1], [0.7, 0.8, 0.93, 1.0, 1.1])

    assert comparison.ratio < comparison.bound
    assert not comparison.is_worse


def test_rate_within_the_noise_of_its_bound_is_unclear() -> None:
    close = rate([1, 1, 1, 1, 1], [0.7, 0.8, 0.93, 1.0, 1.1])
    far = rate([1, 1, 1, 1, 1], [1.49, 1.5, 1.5, 1.5, 1.51])

    assert (close.mark, far.mark) == ("unclear", "ok")
    assert verdict_text([close, far]) == (
        "too noisy to tell: rate; compare again when the machine is idle, or with more --runs"
    )


def test_time_above_its_bound_beyond_the_noise_is_worse() -> None:
    assert duration([1, 1, 1], [1.2, 1.2, 1.2]).is_worse
    assert not duration([1, 1, 1], [0.5, 0.5, 0.5]).is_worse


def test_verdict_names_each_figure_that_is_worse() -> None:
    good, bad = rate([1], [1]), duration([1], [1.5])

    assert verdict_text([good]) == "no figure is worse than its bound beyond the noise of this run"
    assert verdict_text([good, bad]) == (
        "worse than the base: time: 1.50 ± 0.00, where 1.10 is the bound"
    )


def test_guarded_figures_are_at_least_five_with_bounds_that_allow_little() -> None:
    assert len(GUARDED) >= 5
    assert all(0.9 <= each.bound < 1 or 1 < each.bound <= 1.1 for each in GUARDED)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    git(tmp_path, "init", "--quiet", "--initial-branch=main")
    write_version(tmp_path, "0.1.0")
    return tmp_path


def test_base_of_one_that_was_asked_for_is_that_commit(repository: Path) -> None:
    first = git(repository, "rev-parse", "HEAD")
    write_version(repository, "0.2.0")

    assert base_revision("HEAD~1", repository) == first


def test_base_of_an_unknown_revision_is_refused(repository: Path) -> None:
    with pytest.raises(SystemExit, match="cannot compare with nowhere: git knows no such"):
        base_revision("nowhere", repository)


def test_base_is_the_newest_tag(repository: Path) -> None:
    git(repository, "tag", "v0.1.0")
    tagged = git(repository, "rev-parse", "HEAD")
    write_version(repository, "0.2.0")

    assert base_revision(None, repository) == tagged


def test_base_without_a_tag_is_the_last_commit_of_another_version(repository: Path) -> None:
    (repository / "more").touch()
    commit(repository)
    last = git(repository, "rev-parse", "HEAD")
    write_version(repository, "0.2.0")

    assert base_revision(None, repository) == last


def test_base_where_nothing_is_released_has_to_be_named(repository: Path) -> None:
    with pytest.raises(SystemExit, match="give a revision: make ab BASE=main"):
        base_revision(None, repository)


def write_version(repository: Path, version: str) -> None:
    (repository / "pyproject.toml").write_text(f'[project]\nversion = "{version}"\n')
    commit(repository)


def commit(repository: Path) -> None:
    git(repository, "add", "--all")
    who = ("-c", "user.name=n", "-c", "user.email=e")
    git(repository, *who, "commit", "--quiet", "--no-gpg-sign", "--message", "m")


def git(repository: Path, *arguments: str) -> str:
    command = ["git", "-C", str(repository), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
