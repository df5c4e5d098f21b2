"""Paired statistics against slow loops, scipy's own bootstrap, enumerations, definitions and simulations."""

from itertools import combinations, product
from math import comb

import numpy as np
import pytest
import scipy.stats
from numpy.random import default_rng
from numpy.typing import NDArray

from cifar.evaluation.intervals import wilson_interval
from cifar.evaluation.paired import (
    compare_pair,
    error_overlap,
    holm,
    majority_vote,
    mcnemar_p,
    outcome_table,
    paired_interval,
)

Hits = NDArray[np.bool_]


@pytest.fixture
def hits() -> tuple[Hits, Hits]:
    """Of two classifiers on 300 images, right on about 85 and 79 % and on much the same ones."""
    hard = default_rng(0).random(300)
    noise = default_rng(1).normal(0, 0.1, (2, 300))
    return hard + noise[0] < 0.85, hard + noise[1] < 0.79


def test_table_counts_every_case(hits: tuple[Hits, Hits]) -> None:
    counts = [0, 0, 0, 0]
    for first, second in zip(*hits, strict=True):
        counts[[(True, True), (True, False), (False, True), (False, False)].index((bool(first), bool(second)))] += 1
    assert outcome_table(*hits).tolist() == counts
    assert min(counts) > 0
    ones, zeros = np.ones(7, dtype=bool), np.zeros(7, dtype=bool)
    assert outcome_table(ones, zeros).tolist() == [0, 7, 0, 0]
    assert outcome_table(zeros, zeros).tolist() == [0, 0, 0, 7]


def test_bootstrap_of_the_table_is_that_of_the_images(hits: tuple[Hits, Hits]) -> None:
    own = paired_interval(outcome_table(*hits), generator=default_rng(0), num_resamples=40_000)
    generator, differences = default_rng(1), []
    for _ in range(20_000):  # the slow one: images drawn one by one, each with both its outcomes
        drawn = generator.integers(0, 300, 300)
        differences.append(hits[0][drawn].mean() - hits[1][drawn].mean())
    slow = np.quantile(differences, [0.025, 0.975])
    theirs = scipy.stats.bootstrap(
        hits,
        lambda first, second, axis: first.mean(axis=axis) - second.mean(axis=axis),
        paired=True,
        vectorized=True,
        method="percentile",
        n_resamples=20_000,
        rng=default_rng(2),
    ).confidence_interval
    # One image is 0.33 points: the ends may differ by the luck of the resamples, by no more than that.
    assert own == pytest.approx(slow, abs=1 / 300 + 1e-9)
    assert own == pytest.approx((theirs.low, theirs.high), abs=1 / 300 + 1e-9)
    assert slow[1] - slow[0] > 0.05


def test_bootstrap_is_exact_where_its_distribution_is_known() -> None:
    # One image in two tells them apart, all for the first: the resampled difference is Binomial(100, ½) / 100.
    ends = paired_interval([50, 50, 0, 0], generator=default_rng(0), num_resamples=99_999)
    assert ends == pytest.approx(scipy.stats.binom.ppf([0.025, 0.975], 100, 0.5) / 100, abs=1e-9)


def test_bootstrap_at_both_ends_and_by_seed() -> None:
    assert paired_interval([10, 0, 0, 5], generator=default_rng(0)).tolist() == [0, 0]
    assert paired_interval([0, 10, 0, 0], generator=default_rng(0)).tolist() == [1, 1]
    assert paired_interval([0, 0, 10, 0], generator=default_rng(0)).tolist() == [-1, -1]
    table = [800, 70, 50, 80]
    same = [paired_interval(table, generator=default_rng(seed), num_resamples=99).tolist() for seed in (3, 3, 4)]
    assert same[0] == same[1] != same[2]
    wide, narrow = (paired_interval(table, generator=default_rng(0), confidence=level) for level in (0.99, 0.8))
    assert wide[0] < narrow[0] < 0.02 < narrow[1] < wide[1]


def test_paired_interval_covers_as_often_as_it_says() -> None:
    cells = np.array([0.87, 0.05, 0.03, 0.05])  # the first is truly better by 2 points
    tables = default_rng(0).multinomial(10_000, cells, size=2_000)
    low, high = paired_interval(tables, generator=default_rng(1), num_resamples=999)
    assert np.mean((low <= 0.02) & (high >= 0.02)) == pytest.approx(0.95, abs=0.015)


@pytest.mark.parametrize("num_images, fraction", [(10_000, 0.93), (10_000, 0.5), (200, 0.8)])
def test_wilson_interval_covers_as_often_as_it_says(num_images: int, fraction: float) -> None:
    counts, times = np.unique(default_rng(0).binomial(num_images, fraction, size=2_000), return_counts=True)
    ends = np.array([wilson_interval(int(count), num_images) for count in counts])
    covered = (ends[:, 0] <= fraction) & (fraction <= ends[:, 1])
    assert times[covered].sum() / 2_000 == pytest.approx(0.95, abs=0.015)


@pytest.mark.parametrize("only_first, only_second", [(0, 0), (0, 1), (1, 9), (5, 5), (12, 3), (40, 61), (0, 12)])
def test_mcnemar_equals_a_hand_computation(only_first: int, only_second: int) -> None:
    # Twice the smaller tail of a fair coin, in whole numbers: 1 and 9 give 2 · (1 + 10) / 1024.
    number, fewer = only_first + only_second, min(only_first, only_second)
    by_hand = min(1.0, 2 * sum(comb(number, k) for k in range(fewer + 1)) / 2**number)
    assert mcnemar_p([500, only_first, only_second, 20]) == pytest.approx(by_hand, rel=1e-12)
    assert mcnemar_p([0, only_second, only_first, 0]) == pytest.approx(by_hand, rel=1e-12)


def test_mcnemar_equals_swapping_the_classifiers_in_every_way() -> None:
    # If neither is better, each of the 10 images could as well have gone to the other: 1,024 ways, all as likely.
    observed = abs(8 - 2)
    extreme = sum(abs(sum(signs)) >= observed for signs in product((-1, 1), repeat=10))
    assert mcnemar_p([70, 8, 2, 20]) == pytest.approx(extreme / 1024, rel=1e-12)


def test_mcnemar_rarely_accuses_the_innocent() -> None:
    tables = default_rng(0).multinomial(2_000, [0.86, 0.04, 0.04, 0.06], size=2_000)
    assert np.mean([mcnemar_p(table) < 0.05 for table in tables]) < 0.055


def test_holm_is_the_closure_of_bonferroni() -> None:
    def closure(p_values: list[float]) -> list[float]:
        """Largest Bonferroni p of all sets of hypotheses that hold this one: the principle that Holm's steps follow."""
        every = range(len(p_values))
        sets = [chosen for size in every for chosen in combinations(every, size + 1)]
        return [
            max(min(1.0, len(chosen) * min(p_values[i] for i in chosen)) for chosen in sets if index in chosen)
            for index in every
        ]

    generator = default_rng(0)
    for number in range(1, 8):
        p_values = (generator.random(number) ** 3).tolist()
        assert holm(p_values) == pytest.approx(closure(p_values), rel=1e-12)
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.02, 0.02]) == pytest.approx([0.04, 0.04])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_error_overlap_is_shared_errors_of_all(hits: tuple[Hits, Hits]) -> None:
    wrong = [set(np.flatnonzero(~each).tolist()) for each in hits]
    assert error_overlap(*hits) == pytest.approx(len(wrong[0] & wrong[1]) / len(wrong[0] | wrong[1]))
    assert error_overlap(hits[0], hits[0]) == 1
    assert error_overlap(hits[0], ~hits[0]) == 0
    right = np.ones(5, dtype=bool)
    assert error_overlap(right, right) is None


def test_majority_equals_a_slow_count() -> None:
    probs = default_rng(0).dirichlet(np.full(10, 0.5), size=(4, 200)).astype(np.float32)
    voted, num_ties = majority_vote(probs)
    ties = 0
    for image in range(200):
        votes = probs[:, image].argmax(axis=1).tolist()
        most = max(votes.count(name) for name in range(10))
        tied = [name for name in range(10) if votes.count(name) == most]
        ties += len(tied) > 1
        assert voted[image] == max(tied, key=lambda name: probs[:, image, name].astype(np.float64).mean())
    assert num_ties == ties
    assert 0 < ties < 200


def test_a_vote_outweighs_any_probability() -> None:
    certain, uncertain = np.eye(10)[[3]], np.full((1, 10), 0.09)
    uncertain[0, 7] = 0.19
    assert majority_vote(np.stack([certain, uncertain, uncertain]).astype(np.float32))[0].tolist() == [7]
    assert majority_vote(np.stack([certain, uncertain]).astype(np.float32)) == (np.array([3]), 1)


def test_compare_pair_follows_its_definitions() -> None:
    labels = np.array([0, 1, 2, 3, 4, 5])
    first = np.array([0, 1, 2, 3, 9, 9])
    second = np.array([0, 1, 8, 8, 9, 7])
    pair = compare_pair(first, second, labels, generator=default_rng(0))
    counts = [pair[key] for key in ("both_right", "only_first_right", "only_second_right", "both_wrong")]
    assert counts == [2, 2, 0, 2]
    assert pair["difference"] == pytest.approx(2 / 6)
    assert pair["mcnemar_p"] == pytest.approx(0.5)
    assert pair["agreement"] == pytest.approx(3 / 6)  # two hits and one shared wrong class
    assert pair["error_overlap"] == pytest.approx(2 / 4)  # the last image: both wrong, in different ways
    assert pair["interval"][0] <= pair["difference"] <= pair["interval"][1]
