"""Recipes over seeds: Welch against its formula and a simulation, the hierarchical bootstrap against a slow loop."""

import math

import numpy as np
import pytest
import scipy.stats
from numpy.random import default_rng
from numpy.typing import NDArray

from cifar.evaluation.intervals import mean_interval
from cifar.evaluation.paired import outcome_table, paired_interval
from cifar.evaluation.seeds import hierarchical_interval, mean_accuracy_interval, seed_weights, welch

Hits = NDArray[np.bool_]


def test_welch_equals_its_formula() -> None:
    first, second = [0.941, 0.938, 0.944, 0.940], [0.932, 0.939, 0.935]
    variances = [np.var(values, ddof=1) / len(values) for values in (first, second)]
    error = math.sqrt(sum(variances))
    degrees = sum(variances) ** 2 / (variances[0] ** 2 / 3 + variances[1] ** 2 / 2)  # Welch and Satterthwaite
    difference = float(np.mean(first) - np.mean(second))
    half = scipy.stats.t.ppf(0.975, degrees) * error
    test = welch(first, second)
    assert test["difference"] == pytest.approx(difference)
    assert test["degrees_of_freedom"] == pytest.approx(degrees)
    assert test["interval"] == pytest.approx([difference - half, difference + half])
    assert test["p"] == pytest.approx(2 * scipy.stats.t.sf(difference / error, degrees))


def test_welch_gives_no_test_where_seeds_agree() -> None:
    same = {"difference": pytest.approx(0.1), "interval": None, "p": None, "degrees_of_freedom": None}
    assert welch([0.9, 0.9], [0.8, 0.8, 0.8]) == same
    half = welch([0.9, 0.9], [0.8, 0.82])  # a warning would be an error here
    assert half["degrees_of_freedom"] == pytest.approx(1)
    assert half["interval"][0] < half["difference"] < half["interval"][1]


def welch_coverage(sizes: tuple[int, int], spreads: tuple[float, float]) -> float:
    """How many of 2,000 intervals hold the true difference, as a fraction."""
    generator, covered = default_rng(0), 0
    for _ in range(2_000):
        first = generator.normal(93.0, spreads[0], sizes[0])
        second = generator.normal(92.6, spreads[1], sizes[1])
        low, high = welch(first, second)["interval"]
        covered += low <= 0.4 <= high
    return covered / 2_000


@pytest.mark.parametrize("sizes, spreads", [((5, 5), (0.2, 0.2)), ((8, 8), (0.1, 0.4))])
def test_welch_interval_covers_as_often_as_it_says(sizes: tuple[int, int], spreads: tuple[float, float]) -> None:
    assert welch_coverage(sizes, spreads) == pytest.approx(0.95, abs=0.015)


def test_welch_interval_of_three_seeds_each_is_wide() -> None:
    # 96.5 % in the long run, for the degrees of freedom are themselves an estimate: never less than it promises.
    assert 0.95 <= welch_coverage((3, 3), (0.2, 0.2)) <= 0.98


def test_student_interval_covers_as_often_as_it_says() -> None:
    draws = default_rng(0).normal(93.0, 0.2, (2_000, 3))
    ends = np.array([mean_interval(values)[2] for values in draws.tolist()])
    assert np.mean((ends[:, 0] <= 93.0) & (ends[:, 1] >= 93.0)) == pytest.approx(0.95, abs=0.015)


def make_hits(num_seeds: int, fraction: float, *, seed: int, num_images: int = 200, spread: float = 0.02) -> Hits:
    """Hits [S, N] on images of one difficulty for all, seeds of different luck."""
    generator = default_rng(seed)
    hard = default_rng(0).random(num_images)
    fractions = fraction + generator.normal(0, spread, (num_seeds, 1))
    return np.asarray(hard + generator.normal(0, 0.1, (num_seeds, num_images)) < fractions)


def test_hierarchical_bootstrap_equals_a_slow_loop() -> None:
    first, second = make_hits(3, 0.9, seed=1), make_hits(2, 0.8, seed=2)
    ends = hierarchical_interval(first, second, generator=default_rng(0), num_resamples=20_000)
    generator, differences = default_rng(1), []
    for _ in range(10_000):
        drawn, other = first[generator.integers(0, 3, 3)], second[generator.integers(0, 2, 2)]
        images = generator.integers(0, 200, 200)
        differences.append(drawn[:, images].mean() - other[:, images].mean())
    slow = np.quantile(differences, [0.025, 0.975])
    assert ends == pytest.approx(slow, abs=0.004)
    assert slow[1] - slow[0] > 0.05


def test_one_seed_each_is_the_paired_bootstrap() -> None:
    first, second = make_hits(1, 0.9, seed=1), make_hits(1, 0.8, seed=2)
    both = hierarchical_interval(first, second, generator=default_rng(0), num_resamples=20_000)
    paired = paired_interval(outcome_table(first[0], second[0]), generator=default_rng(1), num_resamples=20_000)
    assert both == pytest.approx(paired, abs=1 / 200 + 1e-9)


def test_images_that_are_all_alike_leave_the_seeds() -> None:
    # Each seed is all right or all wrong: only which of the four seeds are drawn matters.
    first = np.repeat(np.array([[True], [True], [True], [False]]), 50, axis=1)
    second = np.zeros((1, 50), dtype=bool)
    ends = hierarchical_interval(first, second, generator=default_rng(0), num_resamples=20_000)
    assert ends.tolist() == (scipy.stats.binom.ppf([0.025, 0.975], 4, 0.75) / 4).tolist()


def test_hierarchical_bootstrap_at_both_ends_and_by_seed() -> None:
    right, wrong = np.ones((2, 10), dtype=bool), np.zeros((3, 10), dtype=bool)
    assert hierarchical_interval(right, wrong, generator=default_rng(0)) == pytest.approx([1, 1])
    assert hierarchical_interval(wrong, right, generator=default_rng(0)) == pytest.approx([-1, -1])
    assert hierarchical_interval(right, right, generator=default_rng(0)) == pytest.approx([0, 0])
    hits = make_hits(2, 0.9, seed=1), make_hits(2, 0.8, seed=2)
    same = [hierarchical_interval(*hits, generator=default_rng(n), num_resamples=1_500).tolist() for n in (3, 3, 4)]
    assert same[0] == same[1] != same[2]


def test_seed_weights_are_draws_with_replacement() -> None:
    weights = seed_weights(3, 5_000, default_rng(0))
    assert weights.sum(axis=1) == pytest.approx(np.ones(5_000))
    assert set((3 * weights).round().astype(int).ravel().tolist()) == {0, 1, 2, 3}
    assert weights.mean(axis=0) == pytest.approx(np.full(3, 1 / 3), abs=0.01)


def test_mean_accuracy_interval_against_the_sums_of_a_loop() -> None:
    hits = make_hits(3, 0.9, seed=1).astype(float)
    (num_seeds, num_images), mean = hits.shape, hits.mean()
    seeds = sum((row.mean() - mean) ** 2 * num_images for row in hits) / (num_seeds - 1)
    images = sum((column.mean() - mean) ** 2 * num_seeds for column in hits.T) / (num_images - 1)
    rest = sum(
        (hits[s, i] - hits[s].mean() - hits[:, i].mean() + mean) ** 2
        for s in range(num_seeds)
        for i in range(num_images)
    ) / ((num_seeds - 1) * (num_images - 1))
    seeds, images = max(seeds, rest), max(images, rest)
    variance = (seeds + images - rest) / hits.size
    terms = seeds**2 / 2 + images**2 / (num_images - 1) + rest**2 / (2 * (num_images - 1))
    half = scipy.stats.t.ppf(0.975, (seeds + images - rest) ** 2 / terms) * math.sqrt(variance)
    assert mean_accuracy_interval(hits > 0) == pytest.approx((mean - half, mean + half), rel=1e-9)


def test_mean_accuracy_interval_covers_both_kinds_of_luck() -> None:
    generator, covered, of_seeds = default_rng(0), 0, 0
    spread = 0.02  # on a scale where images differ by 1: 0.3 points of accuracy
    true = scipy.stats.norm.cdf(1.5 / math.sqrt(1 + spread**2 + 0.25))
    for _ in range(400):
        luck = (
            generator.normal(0, spread, (5, 1)) + generator.normal(0, 1, 2_000) + generator.normal(0, 0.5, (5, 2_000))
        )
        hits = luck < 1.5
        low, high = mean_accuracy_interval(hits)
        covered += low <= true <= high
        low, high = mean_interval(hits.mean(axis=1).tolist())[2]
        of_seeds += low <= true <= high
    assert covered / 400 == pytest.approx(0.95, abs=0.03)
    assert of_seeds / 400 < 0.9  # Student's over the seeds alone leaves out the luck of the images


def test_mean_accuracy_interval_at_its_ends() -> None:
    assert mean_accuracy_interval(np.ones((2, 10), dtype=bool)) == (1, 1)
    assert mean_accuracy_interval(np.zeros((2, 10), dtype=bool)) == (0, 0)
    apart = np.eye(2, dtype=bool).repeat(50, axis=1)  # of equal accuracy, on other images: their luck is there
    assert mean_accuracy_interval(apart)[0] < 0.45 < 0.55 < mean_accuracy_interval(apart)[1]
    seeds = np.repeat(np.array([[True], [False]]), 50, axis=1)  # one seed all right, one all wrong
    assert mean_accuracy_interval(seeds) == (0, 1)
    images = np.repeat(np.array([[True, False]]), 2, axis=0).repeat(50, axis=1)  # the same images by both seeds
    low, high = mean_accuracy_interval(images)
    assert (low + high) / 2 == pytest.approx(0.5)
    assert 0.3 < low < 0.45
